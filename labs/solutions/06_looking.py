# %%
# YOUR CODE (swapped)
def swapped(examples):
    return [replace(e, images=examples[n - 1].images) for n, e in enumerate(examples)]


# %%
# YOUR CODE (about_the_picture)
def about_the_picture(question, picture):
    wanted = question.meta["wanted"]
    return str(sum(wanted in drawn for drawn in picture.meta["objects"]))


# %%
# YOUR CODE (table_of)
def table_of(examples):
    answers = {}
    for e in examples:
        answers.setdefault(e.question, []).append(e.answer)
    return {question: Counter(given).most_common(1)[0][0] for question, given in answers.items()}


# %%
# YOUR CODE (fingerprint)
def fingerprint(picture):
    tiny = picture.convert("L").resize((9, 8))
    pixels = torch.tensor(numpy.array(tiny))  # (8, 9)
    return (pixels[:, 1:] > pixels[:, :-1]).flatten()


# %%
# YOUR CODE (same_colours)
LIMIT = 50


def same_colours(one, other):
    def fields(picture):
        small = picture.convert("RGB").resize((28, 28), Image.BOX)
        return torch.tensor(numpy.array(small)).float()  # (28, 28, 3)

    return bool((fields(one) - fields(other)).abs().max() <= LIMIT)


# %%
# YOUR CODE (split_score)
def split_score(marks, leaked):
    others = set(range(len(marks))) - set(leaked)
    return tuple(sum(marks[n] for n in part) / len(part) for part in (leaked, others))
