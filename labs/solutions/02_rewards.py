# %%
# YOUR CODE (cheats)
cheat_anywhere = "<think> 0 1 2 3 4 5 6 7 8 9 </think><answer> none </answer>"
cheat_part_of = "<think> A flower. </think><answer></answer>"
cheat_confident = [(False, 0.0)]
cheat_wave = 2048


# %%
# YOUR CODE (repaired)
def repaired(text, gold):
    after_thinking = text.rpartition("</think>")[2]
    answers = re.findall("<answer>([^<]*)</answer>", after_thinking)
    if len(answers) != 1:
        return 0.0
    try:
        return float(float(answers[0]) == float(gold))
    except ValueError:
        return 0.0
