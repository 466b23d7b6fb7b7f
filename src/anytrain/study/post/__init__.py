"""A study of kind post-training: which pre-trained weights become the best model after tuning."""
