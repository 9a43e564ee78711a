"""SFT, DPO and GRPO on TRL; each module is an entry point for accelerate launch."""
