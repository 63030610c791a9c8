"""Python that nobody has read (a model's answer) runs where it can change and reach nothing."""
