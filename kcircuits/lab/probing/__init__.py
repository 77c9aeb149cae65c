"""What a model knows: cloze prompts by probability, open questions by generation."""
