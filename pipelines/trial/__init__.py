"""The steering trial that directions, steer and evaluate share: arms, prompts, judges, scores."""
