"""From one record of a dataset, whatever its columns are called, to a conversation about an image."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embernet.data.domains import DOMAINS
from embernet.data.example import Turn
from embernet.errors import InputError

DEFAULT_QUESTION = "Describe this image."

# What columns are called in the datasets people train on; the first that a record has is taken.
IMAGE_COLUMNS = ("image", "decoded_image", "images", "image_path", "img", "picture")
CONVERSATION_COLUMNS = ("conversations", "messages")
QUESTION_COLUMNS = ("question", "questions", "query", "prompt")
ANSWER_COLUMNS = ("answers", "answer", "label", "response")
CHOICE_COLUMNS = ("choices", "options")
CORRECT_COLUMNS = ("correct_choice_idx",)
CAPTION_COLUMNS = ("caption", "captions", "text")
DOMAIN_COLUMN = "domain"

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_IMAGE_MARK = "<image>"  # LLaVA writes into the text where the image goes
_PROMPT_ROLES, _ANSWER_ROLES, _SYSTEM_ROLES = ("human", "user"), ("gpt", "assistant"), ("system",)


@dataclass(frozen=True)
class Columns:
    """Which columns of a dataset mean what, where their names do not say it.

    images: several are put side by side. image_key: number or name of an image that a table of images holds.
    correct: index of the right one among `choices`. labels: what the numbers in `answer` stand for.
    prompt: how a question is asked. image_folder: where below the folder of images its files lie.
    """

    images: tuple[str, ...] = ()
    image_key: str | None = None
    question: str | None = None
    answer: str | None = None
    choices: str | None = None
    correct: str | None = None
    labels: tuple[str, ...] = ()
    prompt: str = "{question}"
    image_folder: str = ""


def record_images(record: Mapping[str, Any], columns: Columns) -> list[Any]:
    """What a record's image columns hold, without what is empty."""
    names = columns.images or tuple(name for name in IMAGE_COLUMNS if _holds_something(record.get(name)))[:1]
    values = [record.get(name) for name in names]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if item is not None and item != ""]


def record_turns(record: Mapping[str, Any], columns: Columns) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """A record's conversation, and the other right answers to its last prompt; InputError if it holds none."""
    turns, references = _record_turns(record, columns)
    try:
        "".join([*references, *(text for turn in turns for text in turn)]).encode()
    except UnicodeEncodeError:  # JSON can write half of an emoji
        raise InputError("its text holds half of a character") from None
    return turns, references


def _record_turns(record: Mapping[str, Any], columns: Columns) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    conversation = _first(record, CONVERSATION_COLUMNS)
    if conversation is not None:
        return conversation_turns(conversation), ()
    question = record.get(columns.question) if columns.question else _first(record, QUESTION_COLUMNS)
    choices = record.get(columns.choices) if columns.choices else _first(record, CHOICE_COLUMNS)
    answer = record.get(columns.answer) if columns.answer else _first(record, ANSWER_COLUMNS)
    if question is None and columns.question is None:
        answer = _first(record, CAPTION_COLUMNS) if answer is None else answer
        question = DEFAULT_QUESTION
    if isinstance(question, list):
        return _paired(question, answer), ()
    if not isinstance(question, str) or not question.strip():
        raise InputError("it has no question")
    question = columns.prompt.format(question=question.strip())
    if choices:
        correct = record.get(columns.correct) if columns.correct else _first(record, CORRECT_COLUMNS)
        return (_multiple_choice(question, choices, correct, answer),), ()
    if columns.labels:
        return ((question, _pick(columns.labels, answer)),), ()
    answers = _answers(answer)
    # Annotators often agree; the commonest answer is learnt, the first where none is commoner.
    target = Counter(answers).most_common(1)[0][0]
    answers.remove(target)
    return ((question, target),), tuple(answers)


def record_domain(record: Mapping[str, Any], default: str) -> str:
    """The domain a record names itself, or its source's; InputError for one that does not exist."""
    domain = record.get(DOMAIN_COLUMN)
    if domain is None:
        return default
    if not isinstance(domain, str) or domain not in DOMAINS:
        raise InputError(f"its domain is not known (found {domain!r}, expected one of {', '.join(DOMAINS)})")
    return domain


def conversation_turns(conversation: Any) -> tuple[Turn, ...]:
    """Turns of [{"from": "human", "value": ...}, {"from": "gpt", ...}] or of the same with "role" and "content"."""
    turns: list[Turn] = []
    prompt: str | None = None
    for message in conversation if isinstance(conversation, list) else [None]:
        if not isinstance(message, Mapping):
            raise InputError("its conversation is not a list of messages")
        role, text = message.get("from", message.get("role")), message.get("value", message.get("content"))
        if role in _SYSTEM_ROLES:
            continue
        if not isinstance(text, str) or role not in _PROMPT_ROLES + _ANSWER_ROLES:
            raise InputError(f"its conversation has a message without text or of an unknown speaker (found {role!r})")
        text = text.replace(_IMAGE_MARK, "").strip()
        if (role in _PROMPT_ROLES) != (prompt is None):
            raise InputError("its conversation does not alternate between prompts and answers")
        if prompt is None:
            prompt = text or DEFAULT_QUESTION
        else:
            turns.append((prompt, _text(text)))
            prompt = None
    if not turns:
        raise InputError("its conversation has no answer")
    return tuple(turns)


def _multiple_choice(question: str, choices: Any, correct: Any, answer: Any) -> Turn:
    """One turn that lists the choices in the prompt and answers with the text of the right one.

    correct: its index, None if only `answer` (its text, its letter or its index) is known.
    """
    if not isinstance(choices, list) or len(choices) > len(_LETTERS):
        raise InputError("its choices are not a list of at most 26")
    texts = [_text(choice) for choice in choices]
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip(_LETTERS, texts, strict=False))
    if correct is None and isinstance(answer, str) and answer.strip() in texts:
        target = answer.strip()
    else:
        target = _pick(texts, answer if correct is None else correct)
    return f"{question}\n\nChoices:\n{lines}", target


def _pick(texts: Sequence[str], which: Any) -> str:
    """The text that a number, "1" or "B" stands for."""
    if isinstance(which, str):
        which = which.strip()
        index = _LETTERS.find(which.upper()) if len(which) == 1 and which.isalpha() else -1
        which = int(which) if which.isdecimal() and len(which) < 10 else index
    if not isinstance(which, int) or not 0 <= which < len(texts):
        raise InputError("its answer is none of its choices")
    return texts[which]


def _paired(questions: list[Any], answers: Any) -> tuple[Turn, ...]:
    if not isinstance(answers, list) or len(answers) != len(questions) or not questions:
        found = len(answers) if isinstance(answers, list) else "no list"
        raise InputError(f"its questions and answers differ in number (found {len(questions)} and {found})")
    return tuple((_text(question), _text(answer)) for question, answer in zip(questions, answers, strict=True))


def _answers(value: Any) -> list[str]:
    """Texts of one answer, or of a list of answers or of {"answer": ...}, without empty ones."""
    items: Iterable[Any] = value if isinstance(value, list) else [value]
    plain = [item.get("answer") if isinstance(item, Mapping) else item for item in items]
    texts = [str(item).strip() for item in plain if isinstance(item, str | int | float)]
    texts = [text for text in texts if text]
    if not texts:
        raise InputError("it has no answer")
    return texts


def _text(value: Any) -> str:
    return _answers(value)[0]


def _first(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((record[name] for name in names if _holds_something(record.get(name))), None)


def _holds_something(value: Any) -> bool:
    return value is not None and value not in ("", [])
