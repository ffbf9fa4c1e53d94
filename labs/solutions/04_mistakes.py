# %%
# YOUR CODE (lessons)
def lessons(question, right, wrong):
    return {
        "cot": (question, right),
        "refine": (prompts.refine_prompt(question, wrong), right),
    }


# %%
# YOUR CODE (sets)
def balance(sets, rng):
    two = [one for one in sets if len(one["right"]) == 2]
    one = [one for one in sets if len(one["right"]) == 1]
    fewer = min(len(two), len(one))
    return rng.sample(two, fewer) + rng.sample(one, fewer)


def in_random_order(right, wrong, rng):
    answers = [*right, *wrong]
    rng.shuffle(answers)
    return answers


# %%
# YOUR CODE (choices)
def vote(answers):
    read = [answer for answer in answers if answer is not None]
    return max(read, key=read.count, default=None)


def choose(selection, answers):
    return selection if selection in answers and selection is not None else vote(answers)
