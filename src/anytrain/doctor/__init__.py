"""What `anytrain doctor` looks at: what is installed, and whether the laws hold on this machine."""
