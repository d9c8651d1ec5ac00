"""Runs a recipe by reinforcement learning with GRPO, while probes watch what is forgotten.

python recipes/grpo.py --config recipes/REGIME/config.yaml [--smoke] [--out DIR] [--any_field VALUE ...]

Fields are those of TRL's ScriptArguments, GRPOConfig and ModelConfig, and of forget_callback's ForgetArguments. On
several GPUs: accelerate launch --config_file recipes/accelerate/zero3.yaml recipes/grpo.py --config ...
"""

from forget_callback.tools.recipe import main

if __name__ == "__main__":
    main("grpo")
