"""After pre-training: fine-tuning by TRL, tasks by lm-evaluation-harness."""
