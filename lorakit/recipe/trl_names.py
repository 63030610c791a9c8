"""Options of TRL's GRPOConfig (1.16) that are not here, and what is possible instead."""

from __future__ import annotations

_WHY: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("repetition_penalty",),
        "completions are drawn from the very policy that learns of them, and TRL samples with the "
        "penalty but learns without it; possible: a reward that punishes repetition, "
        "grpo.temperature, grpo.top_p, grpo.top_k, grpo.min_p",
    ),
    (
        ("generation_kwargs",),
        "what is sampled with is named; possible: grpo.temperature, grpo.top_p, grpo.top_k, "
        "grpo.min_p, grpo.stop_strings",
    ),
    (
        ("chat_template_kwargs",),
        "a chat template is given no arguments; possible: data.chat_template, a template with "
        "these values in it",
    ),
    (
        (
            "cache_implementation",
            "use_transformers_continuous_batching",
            "transformers_continuous_batching_config",
            "use_transformers_paged",
            "pad_to_multiple_of",
        ),
        "lorakit samples and packs by itself; possible: grpo.max_batch, grpo.use_vllm, "
        "train.micro_batch_tokens",
    ),
    (
        (
            "vllm_model_impl",
            "vllm_enable_sleep_mode",
            "vllm_group_port",
            "vllm_gpu_memory_utilization",
            "vllm_max_model_length",
            "vllm_tensor_parallel_size",
        ),
        "a vLLM server is started beside lorakit; possible: the option of `vllm serve`",
    ),
    (
        ("ds3_gather_for_generation",),
        "no part of it is DeepSpeed's; possible: base.offload, base.quantization: nf4",
    ),
    (
        ("vllm_structured_outputs_regex",),
        "nothing is forced upon completions; possible: the reward regex",
    ),
    (
        ("vllm_importance_sampling_cap",),
        "it is old in TRL too; possible: grpo.rollout_importance_sampling_clip_max",
    ),
    (
        (
            "sapo_temperature_neg",
            "sapo_temperature_pos",
            "vespo_k_pos",
            "vespo_lambda_pos",
            "vespo_k_neg",
            "vespo_lambda_neg",
        ),
        "that loss is not built; possible: grpo.loss_type grpo, dr_grpo, bnpo, dapo, gspo, cispo",
    ),
    (
        ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
        "the reference is the base, with the adapter off, and does not move; possible: grpo.beta",
    ),
    (
        (
            "top_entropy_quantile",
            "entropy_coef",
            "use_adaptive_entropy",
            "entropy_coef_min",
            "entropy_coef_max",
            "entropy_coef_delta",
            "entropy_target",
        ),
        "entropy is measured (entropy in metrics.jsonl) and not trained; possible: "
        "grpo.temperature, grpo.epsilon_high",
    ),
    (
        ("off_policy_mask_threshold",),
        "possible: grpo.rollout_importance_sampling_mode token_mask, sequence_mask",
    ),
    (("max_tool_calling_iterations",), "completions call no tools; possible: no tools"),
    (
        ("log_completions", "num_completions_to_print", "log_unique_prompts", "log_multimodal"),
        "samples are always kept, in completions.jsonl and in the report; possible: without it",
    ),
    (("log_completions_hub_repo",), "nothing is uploaded; possible: without it"),
    (
        ("num_generations_eval",),
        "there is no evaluation while it trains; possible: evaluate.sampling.num_samples",
    ),
    (("shuffle_dataset",), "questions are always shuffled, by train.seed; possible: without it"),
    (("disable_dropout",), "the base drops nothing; possible: adapter.lora_dropout: 0"),
    (("model_init_kwargs",), "possible: base.dtype, base.quantization, base.revision"),
    (("trust_remote_code",), "code of others never runs; possible: models of transformers"),
    (
        ("router_aux_loss_coef",),
        "routers of experts do not train; possible: adapter.target_modules without them",
    ),
)

NOT_HERE = {name: why for names, why in _WHY for name in names}
