r"""Find talk of what a teacher was given in words: a description, or the answer.

    find("Row 1, as the caption says, is empty.") -> ["the caption"]

It is a list of phrases, one a line: regular expressions in which a word of SLOTS stands for many.
What stands in a picture is no leak: a caption at its bottom, a sign that says something.
A list finds what its writer has thought of: docs/distill.md says how much that is. The judge, who
is asked the same, is there for the rest. recipes/leak_sentences.py has examples of both kinds.
"""

import re

SLOTS = {
    "THE": r"(?:the|this|that|your|my|our|an?|any|only)(?: [\w-]+){0,2}",  # with two adjectives
    "PICTURE": "(?:image|picture|photo|photograph|figure|chart|table|diagram|scene)",
    "PICTURES": "(?:images|pictures|photos)",
    "MATTER": "(?:text|information|data|facts|details?|representation|context|material|list|words)",
    "ACCOUNT": "(?:text|account|summary|report|passage|listing|list|notes?|tags?|words)",
    "CODE": "(?:JSON|CSV|HTML|PlantUML|Mermaid|SPICE|OCR|markup|code block)",
    "ANSWER": "(?:final |correct |right )?(?:answer|solution|result|label|output|rationale)s?",
    "ONLY_ANSWER": "(?:final |correct |right )?(?:answer|result|choice|option|response)",
    "TRAIT": "(?:given|provided|supplied|stated|attached|accompanying)",
    "PROVIDED": "(?:provided|supplied|attached)",
    "TOLD": "(?:told|given|handed|supplied with|provided with|shown only)",
    "SAYS": "(?:(?:does|did)(?:n['’]t| not) )?(?:also |only |already |just |explicitly )?"
    "(?:sa(?:y|ys|id)|states?d?|mention(?:s|ed)?|lists?|listed|describes?d?|tells?|told|puts?|"
    "specif(?:y|ies|ied))",
    "SAID_BY_USER": "(?:said|says|provide[ds]?|describe[ds]?|gives?|gave|tells?|told|states?|"
    "stated|mention(?:s|ed)?|claims?|wrote|lists?|listed|specified|shared|wants me to explain)",
    "IS": "(?:is|are|was|were)",
    "NOT": "(?:n['’]t| not)",
    "I_AM": "I(?: am| was|['’]m| have been|['’]ve been| had been|['’]d been| were| are)",
    "WE_ARE": "we(?: are| were| have been|['’]re|['’]ve been)",
    "CANNOT": "(?:can(?:not|['’]t| not)|unable to|not able to|without|no way (?:of|to)|"
    "do(?: not|n['’]t))",
    "SEE": "(?:see(?:ing)?|view(?:ing)?|look(?:ing)? at|(?:have |having )?access to)",
    # A chart has a caption, a triangle a reference angle, and a text may ask for a description.
    "UNLESS_PLACED": "(?! (?:of|below|under|above|on|in|beside|at|for|column|field|line) )",
    "UNLESS_ASKED": "(?! (?:in|by|on|at) (?:the|this) (?:question|problem|legend|axis|PICTURE))",
    "UNLESS_A_THING": "(?! (?:angle|point|line|frame|triangle|level|circle|square|axis|number|"
    "value|mark|object|group|book|height|length|side|scale|to\\b))",
}
PHRASES = r"""
# a description, a caption and the like, unless it is a part of the picture
THE descriptions?\b(?! (?:of|column|field|in|on|under|below) )
(?:have|has|had|got|['’]ve|received) (?:got |only )?an? (?:[\w-]+ )?(?:description|ACCOUNT|caption)s?
THE captions?\bUNLESS_PLACED
as the caption\b
caption (?:says|states|notes)
THE (?:annotations?|transcripts?|transcriptions?|metadata|scene graph|alt text)
THE (?:write-?up|describer|narration|object list|scene text|verbal account|netlist)
(?:the|this) CODE\b(?! (?:in|on|of) the (?:screenshot|PICTURE))
(?:structured|formal) (?:data|representation)
(?:textual|written|verbal|text|CSV|JSON) (?:version|form|format|account)
detected objects|detections|extracted text
bounding box(?:es)? (?:in the list|(?:coordinates )?(?:tell|say|show|provided|given))
coordinates provided
# an account of the picture, and what is in it
(?:the|this) ACCOUNT SAYS\bUNLESS_PLACED
(?:the|this) (?:data|ACCOUNT) (?:that )?(?:I_AM|I have|I['’]ve|I got)
(?:ACCOUNT|information|overview) (?:on|of|about) the PICTURE
(?:from|by) the (?:overview|report|summary|wording)
(?:from|in|by) (?:the text|the words|these words|my notes|the notes|the account)\bUNLESS_PLACED
(?:rel(?:y|ying) on|trust|go(?:ing)? by|only have|nothing but) (?:the |this |these )?ACCOUNT
if the (?:information|ACCOUNT) (?:is|are) (?:correct|right|accurate|complete|true)
PROVIDED MATTER
MATTER (?:that IS )?PROVIDED\bUNLESS_ASKED
given (?:text|context|representation|scenario)
(?:MATTER|details?|specifics) IS(?:NOT)? (?:also |been )?(?:provided|given|supplied|available)
(?:without|no) (?:more|further|other) (?:details?|information|context)
# what is described or mentioned; "it is given that AB = 5" is how mathematics is written
(?:is|are|was|were|been|as|it|it['’]s) (?:being )?described\b(?! (?:in|by) )
(?:MATTER|elements?|objects?|items?|contents?|scenario) (?:that IS )?(?:mentioned|described|listed|given)\bUNLESS_ASKED
as (?:given|provided|annotated)\bUNLESS_ASKED
as (?:listed|written|stated|described)(?= ?,)
it IS (?:stated|mentioned|specified|provided)\bUNLESS_ASKED
(?:is|are|was|were|it)(?:NOT|['’]s)? (?:explicitly |also |only |never )?mentioned\bUNLESS_ASKED
no (?:other |further |more )?[\w-]+ IS (?:listed|mentioned|described|specified)\bUNLESS_ASKED
(?:a|no|any) mention of
(?:nothing|something|little|not much) is (?:said|written|stated)\bUNLESS_ASKED
IS said to (?:be|show|have|contain|depict|include)
# somebody who tells
(?:the|this|that) (?:prompt|input) (?:already |also )?(?:SAYS|gives?|includes?)
(?:per|from|in|with|by|to) (?:the|my|this) (?:prompt|input|context)\b(?! (?:of|on|in|line))
my (?:prompt|input|context)
the (?:question|problem|task) comes with
the (?:problem|prompt|task|question) (?:statement )?gives (?:me )?the PICTURE in words
they(?: have|['’]ve)? (?:SAYS|wrote|write)\b(?! (?:on|in|at) )
(?:whoever|the person who|the one who) (?:wrote|described|annotated)
(?:problem|question) (?:setter|writer)s?
the author of the (?:text|description)
the user(?: has| had| have|['’]s)?(?:NOT)? (?:already |also )?SAID_BY_USER
the wording (?:suggests|implies|says)
# a sign says something too, and then the sentence names its place
it (?:says|states|mentions)(?: here)?(?: that)?\b(?! ?['"“$\d])(?![^.]*\b(?:on|at|under|below|above) (?:the|a|its)\b)
# what was told
I_AM TOLD\b(?! to\b)
WE_ARE (?:TOLD|informed)\b(?! (?:that|an?|the) (?:AB|triangle|radius|angle|side|two|area))
(?:given|told|described) to (?:me|us)
they(?:['’]ve| have)? told (?:me|us)
I (?:received|was sent)
what I(?: have|['’]ve) (?:got|been given)
what(?:['’]s| has| have| was| were)(?: been)? (?:described|told|supplied|provided|written|handed|listed)
what (?:they|the user|I_AM) (?:said|wrote|TOLD|gave)
# a reference, a hint, a key
THE reference\bUNLESS_A_THING
reference (?:answer|solution|text)s?
(?:the|this|my|your) hints?\b(?! of )
hint (?:says|tells|suggests)
ground[ -]truth\b(?! is that)
(?:answer key|mark(?:ing)? scheme)\b(?! on)
the crib|solution key|answer sheet
(?:match(?:es)?|agrees? with|same as) the key
(?:TRAIT|reference|gold(?:en)?|expected|known|model|target|official|worked|sample) ANSWER\b(?! (?:choice|option))
(?:teacher|book|textbook|source|author|key|dataset)['’]s (?:answer|solution|label)
(?:listed|marked|labell?ed|flagged|recorded|tagged) as (?:the |being )?(?:correct|right|gold|answer)
(?:correct|right) (?:answer|response|choice|option) is (?:listed|marked|recorded|labell?ed)
(?:according to|as) the (?:solution|answer)\b(?! (?:of|in) )
the solution (?:SAYS|shows|starts|begins|takes|counts)
(?:the )?(?:data ?set['’]?s?|annotators?|labell?ers?) (?:label|says?|said|chose|marked|picked|has|have)
(?:label|answer) (?:for|of) this (?:sample|example|item|PICTURE)
# an answer that is known beforehand
ANSWER (?:(?:(?:that|which|I|we) )?(?:is|was|were|am) )?(?:already )?(?:TRAIT|told|handed|known)
(?:ANSWER|numbers?|values?|choices?|options?|one|that) (?:that |which )?(?:they|you|the user)(?: have| had)? (?:gave|given|told|provided?|supplied|want(?:ed|s)?)
(?:ANSWER|numbers?|values?|choices?|options?|one|that) (?:that |which )?(?:I_AM|WE_ARE) TOLD
(?:I|we) (?:already )?(?:know|knew|have) (?:that )?the (?:correct |right |final )?(?:answer|solution)\b(?! (?:has|must|should|is unique|is positive|of|to|set)\b)
(?:match(?:es|ing)?|agree(?:s|ing)? with|consistent with|in line with|equals) the (?:correct|right) (?:answer|solution|result)
the ONLY_ANSWER is (?:already )?(?:known|supposed|meant|said|told) to be (?!(?:an?|in|at|positive|negative|even|odd|whole)\b)
the ONLY_ANSWER (?:that )?(?:they|you)(?:['’]re| are)? (?:have|want|expect|looking for|after|gave)
says? (?:that )?the ANSWER (?:is|should|must|equals)
the (?:instructions?|task) (?:already )?(?:says?|tells?|gives?|states?) (?:me |us )?(?:that )?the ANSWER
looking at the (?:given |correct |right |final )?(?:answer|solution)\b(?! (?:choice|option))
how (?:the|this|that) ONLY_ANSWER\b[^.]{0,20} come about
reverse[- ]engineer
# reasoning that is made to end there
(?:we|I) (?:need|have|want|are supposed) to (?:end up|arrive|land) (?:at|with|on)
I(?:['’]m| am) (?:supposed|meant|expected|asked) to (?:conclude|answer|get|say|obtain|arrive|end up)
(?:it|this|that) (?:has|have|needs?|is supposed|is meant) to come out (?:as|at|to be)
(?:arrive|arriving|end up|get|come|lead(?:s|ing)?) (?:at|with|to) the (?:TRAIT|expected|desired|required|known) (?:result|answer|value|number)
(?:reasoning|explanation|derivation|argument) (?:that |which )?(?:must |should |has to )?(?:leads?|ends?|arrives?) (?:up )?(?:to|at|in|with)
(?:justify|explain|rationali[sz]e) (?:it|why it['’]?s?|the answer|the reference|how one (?:would|could|can|might))
I(?:['’]ll| will| have to| should| must| need to)? pretend
as (?:if|though) I (?:had |have |can |could )?(?:counted|see|look|saw|seen|found|looked|derived|did)
(?:must|should|can|may|will)(?: ?not|n['’]t) (?:reveal|let on|admit|give away)
the reader (?:should|must|will) (?:think|believe)
# a picture that cannot be seen
CANNOT (?:directly |actually )?SEE (?:the|this|any|an?) (?:actual |real |original )?PICTURE\b(?!['’]s)
(?:can(?:not|['’]t| not)) (?:see|look at|view) it (?:myself|directly)
(?:can(?:not|['’]t| not)|unable to) (?:open|process|load|display|see|view) PICTURES
no (?:actual |real )?PICTURE (?:is |was |has been )?(?:attached|supplied|provided|shown|available|given|here|came|to look at|to see)
PICTURE (?:itself )?(?:is|was|has|were)NOT (?:been )?(?:attached|supplied|provided|shown|available|visible to me|given|here|in front of me)
(?:without|missing|lacking) (?:the|an?) (?:visual|actual PICTURE|PICTURE itself)
if I (?:could|were able to) (?:see|look at|view)
instead of (?:the|an?) (?:actual )?PICTURE
not the (?:actual )?PICTURE itself
(?:imagine|picture|visuali[sz]e) the PICTURE
as an? (?:text|language)(?:[- ]only)? model
working blind
"""  # noqa: E501
CHINESE = [
    "参考(?![线点系角价值图书])|描述[中里]|标准答案",
    "(?:根据|按照|依据|结合).{0,4}(?:描述|提供|给出|给定|说明|提示|标注)",
    "用户(?:提供|给出|提到|描述|已经|告诉)|(?:提供|给出|给定)的(?:信息|内容|资料|描述|答案|文本)",
    "(?:无法|不能|没有)(?:直接)?(?:看到|查看)(?:这张)?(?:图|照)",
]


def filled(phrase: str) -> str:
    """Write a phrase as the regular expression of whole words that it stands for."""
    slot = re.compile("|".join(sorted(SLOTS, key=len, reverse=True)))
    while slot.search(phrase):  # a slot may have another one in it
        phrase = slot.sub(lambda found: SLOTS[found[0]], phrase)
    return rf"\b(?:{phrase})(?!\w)"


ENGLISH = [filled(line) for line in PHRASES.strip().splitlines() if not line.startswith("#")]
LEAK = re.compile("|".join([*ENGLISH, *CHINESE]), re.IGNORECASE)


def find(text: str) -> list[str]:
    """List the words of a text that speak of what its writer was given in words."""
    return [found[0] for found in LEAK.finditer(text)]
