"""What train_grpo.py is made of, besides losses.py and rollout.py.

objective.py     its flags; what a token costs        advantages.py    rewards -> advantages
groups.py        a step's groups; new questions for those without signal
pass_rates.py    questions chosen by how often they are answered right
preflight.py     will a step fit?                     agreement.py     rollout against update
looking.py       is it looking?                       logged.py        what is logged and drawn
"""
