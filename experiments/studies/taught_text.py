"""Text that is rewritten before it is learned: tasks in parts, names in another language, relations."""

import functools

import jax.numpy as jnp
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from experiments.studies import _lines, _names
from experiments.studies._answers import Writer, each, every, parts


def task_mixture(bench):
    """Words of source lines and their kinds as text: the whole task alone, or with its two halves.

    Triggers are keywords, called functions and attributes, told by their first two letters; a prompt
    begins with what is asked: `i` the triggers, `c` the kinds that there are, `m` both, in pairs.

    Anantheswaran, Gupta, Parmar, Luo, Baral, "EDM3: Event Detection as Multi-task Text Generation",
    2023.
    """
    longest, alphabet = bench.options.longest, _names.CHARACTERS + "().,:[] |?>"
    lines = _lines.with_triggers(longest, set(alphabet) - set("|?>="))
    _, taught, *held = parts(bench, lines, "taught", "validation", "test")
    writer = Writer(
        bench, alphabet, prompt=longest + 2, answer=15, metrics={"f1": _pairs_f1},
        held=[every(functools.partial(_task, "m"), part) for part in held],
    )  # fmt: skip

    def asked(kinds):
        return [[_task(kind, line) for line in own for kind in kinds] for own in taught]

    return writer.compare({"single": asked("m"), "mixture": asked("icm")})


def _task(kind, line):
    triggers = _lines.triggers(line)
    answer = {
        "i": "|".join(triggers),
        "c": "|".join(sorted(set(triggers.values()))),
        "m": "|".join(f"{word}>{kind}" for word, kind in triggers.items()),
    }
    return kind + line + "=", answer[kind]


def _pairs_f1(prompt, answer, text):
    """F1 of a text's pairs of trigger and kind, as sets."""
    right, given = (set(x.split("|")) for x in (answer, text))
    return 2 * len(right & given) / (len(right) + len(given))


def names_in_two_languages(bench):
    """Facts that were read in one language, asked for in another that has words of its own for all.

    A sentence is an entity, a relation, a value. The target text tells other facts of every entity and
    those asked for of some; in `inserted` half of its entities, drawn for every pass anew, have their
    first name behind them, between marks that are not learned to be written. `replaced` has it instead.

    Yamada, Ri, "LEIA: Facilitating Cross-Lingual Knowledge Transfer in Language Models with
    Entity-based Data Augmentation", 2024, with names inserted with probability 0.5.
    """
    options = bench.options
    count = 2 * (options.entities + options.relations + options.attributes)
    words = "".join(chr(0x4E00 + k) for k in range(count))
    first, second = words[::2], words[1::2]
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]
    facts, told, unknown = zip(*(_facts(rng, options) for rng in rngs), strict=True)

    def asked(fact):
        text = _sentence(second, first, fact)
        return "=" + text[:-1], text[-1]

    def said(insert, rng, fact):
        return "=", _sentence(second, first, fact, insert if rng.random() < 0.5 else None)

    held = [every(asked, [own[k::2] for own in unknown]) for k in (0, 1)]
    writer = Writer(bench, words + "<>=", prompt=3, answer=6, held=held)
    start = writer.teach("first", every(lambda fact: ("=", _sentence(first, first, fact)), facts))
    marks, embedding = np.array(writer.characters.tokens("<>")), start["embedding"]
    middle = jnp.mean(embedding, axis=1, keepdims=True)
    start = {**start, "embedding": embedding.at[:, marks].set(middle)}
    writer.taught["first"] = start
    rows = {
        name: every(functools.partial(said, name), rngs, told)
        for name in ("plain", "inserted", "replaced")
    }
    return writer.compare(rows, start=start, silent="<>")


def _facts(rng, options):
    """All (entity, relation, value), numbers of words; those told in the other language; the others.

    Of the last entities the other language tells the last relation alone; it tells in several passes.
    """
    values = rng.integers(options.attributes, size=(options.entities, options.relations))
    before = options.entities + options.relations
    facts = [(e, options.entities + r, before + value) for (e, r), value in np.ndenumerate(values)]
    told = [fact for fact in facts if fact[0] < options.told or fact[1] == before - 1]
    unknown = rng.permutation([fact for fact in facts if fact not in told]).tolist()
    return facts, options.passes * told, unknown


def _sentence(language, first, fact, insert=None):
    """The words of a fact, its numbers; by `insert` with the entity's word in the first language."""
    named = {"inserted": language[fact[0]] + f"<{first[fact[0]]}>", "replaced": first[fact[0]]}
    return named.get(insert, language[fact[0]]) + "".join(language[k] for k in fact[1:])


def relations_of_names(bench):
    """Which module a function is of, from few examples, after different work on names without labels.

    The teacher knows other functions' modules and answers three relations: the module, the first word,
    the number of words; its surer half is kept. `transferred` fills a masked tail or a masked part of
    the name (half each) and names the relation between both; `infilling` fills parts of names alone.

    Zhou, Le Bras, Choi, "Commonsense Knowledge Transfer for Pre-trained Language Models", 2023; what
    is masked and what is kept is a reconstruction.
    """
    options = bench.options
    modules = _names.by_module(options.modules, options.each)
    labels = {name: k for k, names in enumerate(modules.values()) for name in names}
    titles = [module[:8] for module in modules]
    sizes = ("known", "read", "validation", "test")
    rngs, known, read, *held = parts(bench, sorted(labels), *sizes)

    def infilling(rng, known, read):
        return [_masked(rng, name, "") for name in read for _ in range(2)]

    def transferred(rng, known, read):
        tails = _teacher(known, [labels[n] for n in known], read)
        return [x for name, tail in tails.items() for x in _related(rng, name, titles[tail])]

    def few(names):
        own = [[n for n in names if labels[n] == k] for k in range(len(modules))]
        return [name for several in own for name in several[: options.shots]]

    shots, *held = (
        every(lambda name: (name + "#", str(labels[name])), part)
        for part in (each(few, known), *held)
    )
    alphabet = _names.CHARACTERS + "0123456789?@^+:#"
    writer = Writer(bench, alphabet, prompt=27, answer=9, held=held)
    writer.teach("none", shots)
    for work in (infilling, transferred):
        read_first = writer.teach(f"{work.__name__}/read", each(work, rngs, known, read))
        writer.teach(work.__name__, shots, start=read_first)
    return writer.measured()


def _teacher(names, labels, asked):
    """{name: module} of the surer half of `asked`, by the letters of names whose modules are known."""
    letters = CountVectorizer(analyzer="char_wb", ngram_range=(1, 3))
    fitted = make_pipeline(letters, LogisticRegression(max_iter=500)).fit(names, labels)
    shares = fitted.predict_proba(asked)
    sure = np.argsort(-shares.max(axis=1), kind="stable")[: len(asked) // 2]
    return {asked[k]: fitted.classes_[shares[k].argmax()] for k in sure}


def _related(rng, name, title):
    """A masked text and a relation to name, of one of the three things that are known of a name."""
    words = _names.words(name)
    tails = {"@": title, "^": words[0][:8], "+": str(len(words))}
    relation = "@^+"[rng.integers(3)]
    tail = tails[relation]
    of_tail = rng.random() < 0.5
    infilled = (f"{name}{relation}?=", tail) if of_tail else _masked(rng, name, relation + tail)
    return [infilled, (f"{name}:{tail}=", relation)]


def _masked(rng, name, tail):
    """A name without one to three of its letters, then the tail; and those letters."""
    length = int(rng.integers(1, 4))
    place = int(rng.integers(len(name) - length + 1))
    return f"{name[:place]}?{name[place + length :]}{tail}=", name[place : place + length]
