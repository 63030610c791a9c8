"""`lorakit evaluate`: the base before and the adapter after, on the sets of the recipe."""

from __future__ import annotations

from lorakit.cli.output import (
    AsJson,
    RunFolder,
    print_json,
    show_lines,
    show_sets,
    stdout_for_results,
)
from lorakit.run_folder import RunFolder as RunPaths


def command(run: RunFolder, as_json: AsJson = False) -> None:
    """Measure a run's adapter against its base again.

    On the sets that its recipe names.

    \b
    Example:
      lorakit evaluate runs/recipe
      lorakit evaluate runs/recipe --json
    """
    with stdout_for_results():
        from lorakit.finetune import evaluate_run

        results = evaluate_run(run)
    if as_json:
        print_json({name: result.to_json() for name, result in results.items()})
    else:
        show_sets(results)
        show_lines({"report": str(RunPaths(run).report)})
