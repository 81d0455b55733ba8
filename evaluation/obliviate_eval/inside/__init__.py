"""What a model holds inside, whatever it says: attacks that read or change hidden states of Hugging Face models."""
