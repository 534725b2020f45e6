"""A word-level tokenizer for small models: a word, a punctuation mark or a digit is one token."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

PAD, BOS, EOS, IMAGE, UNKNOWN = "<pad>", "<bos>", "<eos>", "<image>", "<unk>"
SPECIAL_TOKENS = (PAD, BOS, EOS, IMAGE, UNKNOWN)  # their ids are their places here


def build_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer that knows the words of `texts`, in lower case and American spelling; other words become <unk>.

    Digits are tokens of their own behind one token for the space, so that every number is known and "374" is decoded
    as it was written. No special token is added by `encode`.
    """
    tokenizer = Tokenizer(models.WordLevel({}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Lowercase(),
            normalizers.Replace("colour", "color"),
            normalizers.Replace("grey", "gray"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    words: dict[str, None] = {}
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)):
            words[word] = None
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *sorted(words)))}
    tokenizer.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer
