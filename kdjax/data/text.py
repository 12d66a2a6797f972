"""Text: documents, a tokenizer trained on them, chat templates, and rows of packed tokens.

Notation: a document is text; its tokens come with `kept`, whether a token is one to be predicted (the
answer) or only read (the prompt). Rows have L tokens: `tokens` `[N, L]`, the `targets` that follow
them, `mask` where a target counts, `segments`, the number of the document that a token is of: it sees
that one only. Every document starts with the end token, so that its first token has something to
follow, and the token after its last one is the end token of the next.

Needs the package `tokenizers`, as `kdjax.data.alignment` does; nothing else of kdjax imports them.
"""

import hashlib
import json
import sysconfig
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

END = "<|end|>"
# What a tokenizer of bytes cannot do without: the bytes, and the end token.
SMALLEST_VOCABULARY = 257


class Splits(NamedTuple):
    """Names of documents, each in one split."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


class Piece(NamedTuple):
    """A stretch of a document: `kept` if it is to be predicted, `marker` if special tokens count."""

    text: str
    kept: bool = True
    marker: bool = False


class Document(NamedTuple):
    """Tokens `[n]`, which of them are predicted, and further columns `[n, ...]` of the same tokens."""

    tokens: np.ndarray
    kept: np.ndarray
    columns: Mapping[str, np.ndarray] = {}


# --- Documents ------------------------------------------------------------------------------------


def standard_library(package: str = "") -> dict[str, str]:
    """The sources of the Python standard library's top-level modules, by file name.

    Private modules are left out (some are made by the build and differ between machines), and so
    are packages. The text is that of the Python that runs: another version has another fingerprint.

    Args:
        package: its own modules instead.

    Raises:
        FileNotFoundError: a Python without sources, or without that package.
    """
    folder = Path(sysconfig.get_path("stdlib"), package)
    paths = sorted(p for p in folder.glob("*.py") if not p.name.startswith("_"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no sources of the standard library")
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def read_text(path) -> dict[str, str]:
    """The documents of a folder of `.txt` and `.py` files (at any depth), or of one file, by name.

    Raises:
        FileNotFoundError: no such file, or none in the folder. ValueError: what is not UTF-8.
    """
    path = Path(path)
    if path.is_file():
        found = [path]
    else:
        found = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".py") and p.is_file())
    if not found:
        raise FileNotFoundError(f"{path} is no file, and no folder with .txt or .py files")
    root = path if path.is_dir() else path.parent
    return {p.relative_to(root).as_posix(): _utf8(p) for p in found}


def _utf8(path):
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def text_fingerprint(documents: Mapping[str, str]) -> str:
    """The sha256 of names and texts, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(documents):
        digest.update(f"{name}\0{documents[name]}\0".encode())
    return digest.hexdigest()


def split_documents(documents: Mapping[str, str], *, validation: float, test: float) -> Splits:
    """Whole documents for each split, in an order drawn from their names alone.

    Args:
        documents: `{name: text}`.
        validation: the share of the text, in characters; a split takes documents until it has it.
        test: likewise.

    Raises:
        ValueError: shares that are negative or leave nothing, too few documents.

    >>> texts = {name: "x" * 10 for name in "abcdefghij"}
    >>> [len(names) for names in split_documents(texts, validation=0.1, test=0.2)]
    [7, 1, 2]
    """
    if min(validation, test) <= 0 or validation + test >= 1:
        raise ValueError(
            f"validation and test must be above 0 and leave some for training, got {validation} "
            f"and {test}"
        )
    order = sorted(documents, key=lambda name: hashlib.sha256(name.encode()).digest())
    whole = sum(map(len, documents.values()))
    parts: list[tuple[str, ...]] = []
    for share in (test, validation):
        size, taken = 0, 0
        while taken < len(order) and size < share * whole:
            size, taken = size + len(documents[order[taken]]), taken + 1
        parts.append(tuple(sorted(order[:taken])))
        order = order[taken:]
    if not order:
        raise ValueError(f"{len(documents)} documents are too few for three splits")
    return Splits(tuple(sorted(order)), parts[1], parts[0])


# --- Tokenizers -----------------------------------------------------------------------------------


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer of at most `vocabulary` tokens: it reads any text and loses nothing.

    The same texts give the same tokenizer. Its end token has number 0.

    Raises:
        ValueError: a vocabulary without room for the bytes.
    """
    if vocabulary < SMALLEST_VOCABULARY:
        raise ValueError(f"vocabulary must be at least {SMALLEST_VOCABULARY}, got {vocabulary}")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(path) -> tokenizers.Tokenizer:
    """A `tokenizer.json`, or the one of a folder.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no tokenizer.
    """
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no tokenizer")
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(f"{path} is no tokenizer of the package tokenizers: {error}") from error


def end_token(tokenizer, name: str = END) -> int:
    """The number of the end token `name`.

    Raises:
        ValueError: the tokenizer does not have it.
    """
    number = tokenizer.token_to_id(name)
    if number is None:
        raise ValueError(f"the tokenizer has no token {name!r}")
    return number


def encode(tokenizer, pieces: str | Sequence[Piece]) -> Document:
    """The tokens of a text, or of its pieces, each by itself.

    What looks like a special token is ordinary text, but for a piece that is a `marker`.
    """
    pieces = [Piece(pieces)] if isinstance(pieces, str) else pieces
    tokens: list[int] = []
    kept: list[bool] = []
    before = tokenizer.encode_special_tokens
    try:
        for piece in pieces:
            tokenizer.encode_special_tokens = not piece.marker
            ids = tokenizer.encode(piece.text, add_special_tokens=False).ids
            tokens += ids
            kept += [piece.kept] * len(ids)
    finally:
        tokenizer.encode_special_tokens = before
    return Document(np.asarray(tokens, np.int32), np.asarray(kept, bool))


# --- Chats and answers ----------------------------------------------------------------------------


class ChatTemplate(NamedTuple):
    """What stands before and behind a message, by role; answers are what `answers` says.

    >>> template = ChatTemplate({"user": ("Q: ", "\\n"), "assistant": ("A: ", "\\n")})
    >>> talk = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
    >>> "".join(piece.text for piece in chat(talk, template))
    'Q: 1+1\\nA: 2\\n'
    >>> [piece.text for piece in chat(talk, template) if piece.kept]
    ['2', '\\n']
    """

    markers: Mapping[str, tuple[str, str]]
    answers: tuple[str, ...] = ("assistant",)


PLAIN_CHAT = ChatTemplate(
    {
        "system": ("", "\n\n"),
        "user": ("### Question\n", "\n\n"),
        "assistant": ("### Answer\n", "\n\n"),
    }
)


def chat(messages: Sequence[Mapping[str, str]], template: ChatTemplate) -> list[Piece]:
    """The pieces of a conversation; predicted are the answers and what ends them.

    Args:
        messages: `{"role", "content"}`, in order.
        template: the markers of every role there is.

    Raises:
        ValueError: a message of another form, or of a role without markers.
    """
    pieces = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"message {number} must have role and content, got {message!r}")
        role, content = message["role"], message["content"]
        if role not in template.markers:
            raise ValueError(
                f"message {number} is of role {role!r}; the template has {sorted(template.markers)}"
            )
        if not isinstance(content, str):
            raise TypeError(f"the content of message {number} must be text, got {content!r}")
        before, after = template.markers[role]
        answer = role in template.answers
        pieces += [
            Piece(before, kept=False, marker=True),
            Piece(content, kept=answer),
            Piece(after, kept=answer, marker=True),
        ]
    return pieces


def read_answers(path, tokenizer, template: ChatTemplate, *, top_k: int = 0) -> list[Document]:
    """What a teacher that is not at hand said: JSON lines, each a prompt and its answer.

    A line has `prompt` and `answer`, or `messages` of roles and contents, or `text` without a prompt.
    With `top_k` it also has, for the answer as the teacher tokenised it, `tokens`, and
    `top_log_probs`: per token the teacher's best classes there, `[[token, log-probability], ...]`,
    natural logarithms over all classes. Tokens are given by number, or as the tokenizer spells them.

    Args:
        path: the file.
        tokenizer: the student's; with `top_k` it must be the teacher's as well.
        template: for the markers around prompts and answers.
        top_k: how many classes of each token are kept, 0 for answers alone.

    Returns:
        Documents; with `top_k` their columns are `teacher_log_probs` and `teacher_classes`
        `[n, top_k]` and `teacher_log_tail` `[n]`, for the tokens that are kept.

    Raises:
        FileNotFoundError: no such file. ValueError: a line of another form, with its number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of answers")
    documents = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            documents.append(_answer(json.loads(line), tokenizer, template, top_k))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not documents:
        raise ValueError(f"{path} has no answers")
    return documents


def _answer(row, tokenizer, template, top_k):
    if not isinstance(row, dict):
        raise TypeError(f"a line must be a JSON object, got {type(row).__name__}")
    if "messages" in row:
        pieces = chat(row["messages"], template)
    elif "prompt" in row and ("answer" in row or top_k):
        talk = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row.get("answer", "")},
        ]
        pieces = chat(talk, template)
    elif isinstance(row.get("text"), str):
        pieces = [Piece(row["text"])]
    else:
        raise ValueError(f"wanted prompt and answer, messages, or text; there are {sorted(row)}")
    if not top_k:
        return encode(tokenizer, pieces)
    missing = [name for name in ("tokens", "top_log_probs") if name not in row]
    if missing:
        raise ValueError(f"a top-k teacher needs {missing}; there are {sorted(row)}")
    # The answer is what the teacher's tokens say, not what encoding its text again would give.
    prompt = encode(tokenizer, [piece for piece in pieces if not piece.kept])
    return _with_top_k(row, tokenizer, prompt, top_k)


def _with_top_k(row, tokenizer, prompt, top_k):
    answer = np.asarray([_number(tokenizer, token) for token in row["tokens"]], np.int32)
    best = row["top_log_probs"]
    if len(best) != len(answer):
        raise ValueError(f"{len(answer)} tokens and top_log_probs of {len(best)}")
    length = len(prompt.tokens) + len(answer)
    log_probs = np.full((length, top_k), -np.inf, np.float32)
    classes = np.zeros((length, top_k), np.int32)
    tail = np.zeros(length, np.float32)
    for at, pairs in enumerate(best, len(prompt.tokens)):
        found = {_number(tokenizer, token): float(value) for token, value in pairs}
        if len(found) < len(pairs):
            raise ValueError(f"answer token {at - len(prompt.tokens)} names a class twice")
        if any(not value <= 1e-4 for value in found.values()):
            raise ValueError("log-probabilities must be at most 0")
        ranked = sorted(found.items(), key=lambda pair: -pair[1])[:top_k]
        classes[at, : len(ranked)] = [number for number, _ in ranked]
        log_probs[at, : len(ranked)] = [min(value, 0.0) for _, value in ranked]
        rest = 1.0 - np.exp([value for _, value in ranked], dtype=np.float64).sum()
        tail[at] = np.log(rest) if rest > 1e-7 else -np.inf
    return Document(
        np.concatenate([prompt.tokens, answer]),
        np.arange(length) >= len(prompt.tokens),
        {"teacher_log_probs": log_probs, "teacher_classes": classes, "teacher_log_tail": tail},
    )


def _number(tokenizer, token):
    if isinstance(token, bool) or not isinstance(token, (int, str)):
        raise TypeError(f"a token must be a number or text, got {token!r}")
    if isinstance(token, str):
        number = tokenizer.token_to_id(token)
    else:
        number = token if 0 <= token < tokenizer.get_vocab_size() else None
    if number is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return number


# --- Rows -----------------------------------------------------------------------------------------


def pack(documents: Sequence[Document], length: int, *, end: int) -> dict[str, np.ndarray]:
    """Documents one after another, cut into rows of `length` tokens.

    A document that is longer than what is left of its row goes on in the next one, and does not see
    there what came before.

    Args:
        documents: all with the same further columns.
        length: L.
        end: the number of the end token.

    Returns:
        `{"tokens", "targets", "mask", "segments"}`, each `[N, L]`: tokens and segments `int32`, mask
        boolean; and the documents' columns, at the place from which their token is predicted. What
        fills the last row up is masked.

    Raises:
        ValueError: no documents, no token to predict.

    >>> rows = pack([Document(np.array([5, 6, 7]), np.array([False, True, True]))], 5, end=0)
    >>> rows["tokens"].tolist(), rows["targets"].tolist(), rows["mask"].tolist()
    ([[0, 5, 6, 7, 0]], [[5, 6, 7, 0, 0]], [[False, True, True, True, False]])
    """
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    if not documents or not any(document.kept.any() for document in documents):
        raise ValueError("there is no token to predict")
    parts: dict[str, list[np.ndarray]] = {}
    for number, (tokens, kept, columns) in enumerate(documents):
        # The end token behind a document is predicted if its last token is.
        last = kept[-1:] if len(kept) else np.zeros(1, bool)
        row = {
            "tokens": np.concatenate([[end], tokens]),
            "targets": np.concatenate([tokens, [end]]),
            "mask": np.concatenate([kept, last]),
            "segments": np.full(len(tokens) + 1, number),
        }
        for name, column in columns.items():
            row[name] = np.concatenate([column, np.zeros((1, *column.shape[1:]), column.dtype)])
        if columns:
            row["mask"][-1] = False  # nothing is known of the teacher there
        for name, column in row.items():
            parts.setdefault(name, []).append(column)
    whole = {name: np.concatenate(columns) for name, columns in parts.items()}
    missing = -len(whole["tokens"]) % length
    fill = {"tokens": end, "targets": end, "mask": False, "segments": len(documents)}
    rows = {}
    for name, column in whole.items():
        column = column.astype(np.int32) if column.dtype == np.int64 else column
        shape = (missing, *column.shape[1:])
        filled = np.concatenate([column, np.full(shape, fill.get(name, 0), column.dtype)])
        rows[name] = filled.reshape(-1, length, *column.shape[1:])
    return rows


def whole_prompts(rows: Mapping[str, np.ndarray], length: int) -> np.ndarray:
    """The first `length` tokens of those rows in which they are of one document: `[M, length]`.

    Raises:
        ValueError: a length that leaves no token to generate, or no such row.
    """
    segments = rows["segments"]
    if not 1 <= length < segments.shape[1]:
        raise ValueError(
            f"a prompt must be at least 1 token and leave some of {segments.shape[1]}, got {length}"
        )
    one = (segments[:, :length] == segments[:, :1]).all(axis=1)
    if not one.any():
        raise ValueError(f"no row begins with {length} tokens of one document")
    return rows["tokens"][one, :length]


def continued(prompts: np.ndarray, whole, *, end: int) -> dict[str, Any]:
    """Columns of rows that a model wrote: its tokens behind the prompts, up to the first end token.

    Works on numpy and jax arrays, under jit.

    Args:
        prompts: `[B, P]`, of which only P is read.
        whole: `[B, L + 1]` tokens, prompt included.
        end: the number of the end token, which counts; what follows it does not.

    Returns:
        `{"tokens", "targets", "mask", "segments"}` `[B, L]` as `pack` gives them.

    >>> rows = continued(np.array([[4, 5]]), np.array([[4, 5, 6, 0, 9]]), end=0)
    >>> rows["mask"].astype(int).tolist()
    [[0, 1, 1, 0]]
    """
    tokens, targets = whole[:, :-1], whole[:, 1:]
    written = np.arange(targets.shape[1])[None] >= prompts.shape[1] - 1
    ends = ((targets == end) & written).astype(np.int32)
    before = ends.cumsum(axis=1) - ends
    return {
        "tokens": tokens,
        "targets": targets,
        "mask": written & (before == 0),
        "segments": 0 * tokens,
    }


# --- Bags -----------------------------------------------------------------------------------------


def trigram_bags(lines: Iterable[str], buckets: int) -> np.ndarray:
    """`float32[N, buckets]`: how often each trigram of a line's characters comes, by its hash.

    On a log scale; a row's length is the root of `buckets`. Case does not count, and a space stands
    before and behind the line.

    >>> bags = trigram_bags(["ab", "Ab", "abc"], 64)
    >>> (bags > 0).sum(axis=1), bool((bags[0] == bags[1]).all())
    (array([2, 2, 3]), True)
    """
    bags = []
    for line in lines:
        line, bag = f" {line.lower()} ", np.zeros(buckets, np.float32)
        for start in range(len(line) - 2):
            bag[zlib.crc32(line[start : start + 3].encode()) % buckets] += 1
        bags.append(np.log1p(bag))
    found = np.stack(bags)
    return found * np.sqrt(buckets) / np.linalg.norm(found, axis=1, keepdims=True)
