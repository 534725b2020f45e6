"""VQA accuracy with the normalisation of the official evaluation of VQA v2 (https://visualqa.org/evaluation.html).

Texts are always normalised; the official code leaves answers alone on which all annotators agree.
"""

import re
from collections.abc import Sequence

# Fewer annotators cannot give even a right answer the full score.
MIN_ANNOTATORS = 4

_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# A contraction is recognised when one of its apostrophes is missing.
_CONTRACTIONS = {
    form[:place] + form[place + 1 :]: form
    for form in _CONTRACTED.split()
    for place, letter in enumerate(form)
    if letter == "'"
}


def normalize_answer(text: str) -> str:
    """Lower case, digits for number words, apostrophes in contractions; no articles, no punctuation."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    joins = _COMMA_IN_NUMBER.search(text) is not None
    normal = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        normal = normal.replace(mark, "" if beside_space or joins else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", normal).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """min(1, matches / 3), averaged over all ways to leave one annotator out; references: one per annotator."""
    answer = normalize_answer(answer)
    is_match = [normalize_answer(reference) == answer for reference in references]
    matches = sum(is_match)
    return sum(min(1.0, (matches - left_out) / 3) for left_out in is_match) / len(is_match)
