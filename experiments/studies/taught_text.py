"""Text that is rewritten before it is learned: tasks in parts, names in another language, relations."""

import collections
import keyword
import re

import jax.numpy as jnp
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from experiments.studies import _names
from experiments.studies._answers import Writer, each, parts
from kdjax.data.text import standard_library


def task_mixture(bench):
    """Words of source lines and their kinds as text: the whole task alone, or with its two halves.

    Triggers are keywords, called functions and attributes, told by their first two letters; a prompt
    begins with what is asked: `i` the triggers, `c` the kinds that there are, `m` both, in pairs.

    Anantheswaran, Gupta, Parmar, Luo, Baral, "EDM3: Event Detection as Multi-task Text Generation",
    2023.
    """
    options = bench.options
    alphabet = _names.CHARACTERS + "().,:[] |?>"
    writer = Writer(bench, alphabet, prompt=options.longest + 2, answer=15)
    lines = _lines(options.longest, alphabet)
    _, lines, *held = parts(bench, lines, options.taught, options.validation, options.test)
    validation, test = ([[_task("m", line) for line in own] for own in x] for x in held)
    rest = {"steps": options.steps, "validation": validation, "right": _pairs_f1}
    found = {}
    for name, tasks in (("single", "m"), ("mixture", "icm")):
        pairs = [[_task(task, line) for line in own for task in tasks] for own in lines]
        found[name] = {"f1": writer.accuracy(writer.teach(name, pairs, **rest), test, _pairs_f1)}
    return found


def _lines(longest, alphabet):
    """Lines of the standard library with one to three triggers, each once."""
    found = {
        line
        for source in standard_library().values()
        for line in (" ".join(line.split()) for line in source.splitlines())
        if 8 <= len(line) <= longest and set(line) <= set(alphabet) - set("|?>=")
    }
    return sorted(line for line in found if 1 <= len(_triggers(line)) <= 3)


def _triggers(line):
    """{trigger: kind} of a line, in its order."""
    found = {}
    for match in re.finditer(r"[a-z_]+", line):
        word, before, after = match[0], line[: match.start()], line[match.end() :]
        if keyword.iskeyword(word):
            found[word[:2]] = "k"
        elif after.startswith("("):
            found[word[:2]] = "f"
        elif before.endswith("."):
            found[word[:2]] = "a"
    return found


def _task(kind, line):
    triggers = _triggers(line)
    answer = {
        "i": "|".join(triggers),
        "c": "|".join(sorted(set(triggers.values()))),
        "m": "|".join(f"{word}>{kind}" for word, kind in triggers.items()),
    }
    return kind + line + "=", answer[kind]


def _pairs_f1(prompt, answer, text):
    """F1 of a text's pairs of trigger and kind, as sets."""
    del prompt
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
    entities, relations, values = options.entities, options.relations, options.attributes
    words = [chr(0x4E00 + k) for k in range(2 * (entities + relations + values))]
    first, second = words[::2], words[1::2]
    writer = Writer(bench, "".join(words) + "<>=", prompt=3, answer=6)

    def asked(facts):
        whole = [_sentence(second, first, fact) for fact in facts]
        return [("=" + text[:-1], text[-1]) for text in whole]

    rngs = [np.random.default_rng(seed) for seed in bench.seeds]
    facts, told, held = [], [], []
    for rng in rngs:
        drawn = rng.integers(values, size=(entities, relations))
        own = [
            (e, entities + r, entities + relations + drawn[e, r])
            for e in range(entities)
            for r in range(relations)
        ]
        facts.append(own)
        # Of the last entities the other language tells the last relation alone.
        known = [x for x in own if x[0] < options.told or x[1] == entities + relations - 1]
        told.append(known)
        held.append(rng.permutation([x for x in own if x not in known]).tolist())
    read = [[("=", _sentence(first, first, fact)) for fact in own] for own in facts]
    validation, test = ([asked(own[k::2]) for own in held] for k in (0, 1))
    start = writer.teach("first", read, steps=options.first_steps)
    marks, embedding = np.array(writer.characters.tokens("<>")), start["embedding"]
    middle = jnp.mean(embedding, axis=1, keepdims=True)
    start = {**start, "embedding": embedding.at[:, marks].set(middle)}
    found = {"first": start}
    for name in ("plain", "inserted", "replaced"):
        insert = None if name == "plain" else name
        text = [
            [
                ("=", _sentence(second, first, fact, insert if rng.random() < 0.5 else None))
                for _ in range(options.passes)
                for fact in own
            ]
            for rng, own in zip(rngs, told, strict=True)
        ]
        found[name] = writer.teach(
            name, text, steps=options.steps, start=start, validation=validation, silent="<>"
        )
    return writer.accuracies(found, test)


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
    writer = Writer(bench, _names.CHARACTERS + "0123456789?@^+:#", prompt=27, answer=9)
    modules = _functions(options.modules, options.each)
    labels = {name: k for k, names in enumerate(modules.values()) for name in names}
    titles = [module[:8] for module in modules]
    sizes = (options.known, options.read, options.validation, options.test)
    rngs, known, read, *held = parts(bench, sorted(labels), *sizes)

    def transferred(rng, known, read):
        tails = _teacher(known, [labels[n] for n in known], read)
        return [x for name, tail in tails.items() for x in _related(rng, name, titles[tail])]

    def infilling(rng, known, read):
        del known
        return [_masked(rng, name, "") for name in read for _ in range(2)]

    def few(names):
        own = [[n for n in names if labels[n] == k][: options.shots] for k in range(len(modules))]
        return [name for several in own for name in several]

    shots, validation, test = (
        [[(n + "#", str(labels[n])) for n in own] for own in x] for x in (each(few, known), *held)
    )
    found = {}
    for work in (None, infilling, transferred):
        name, start = work.__name__ if work else "none", None
        if work:
            pairs = each(work, rngs, known, read)
            start = writer.teach(f"{name}/read", pairs, steps=options.read_steps)
        found[name] = writer.teach(
            name, shots, steps=options.steps, start=start, validation=validation
        )
    return writer.accuracies(found, test)


def _functions(modules, each):
    """{module: names of its functions} of those with the most, names that one module alone has."""
    found = {
        file.removesuffix(".py"): set(re.findall(r"def ([a-z_0-9]{3,16})\(", source))
        for file, source in standard_library().items()
    }
    counts = collections.Counter(name for names in found.values() for name in names)
    own = {m: sorted(n for n in names if counts[n] == 1) for m, names in found.items()}
    most = sorted(own, key=lambda module: -len(own[module]))[:modules]
    return {module: own[module][:each] for module in most}


def _teacher(names, labels, asked):
    """{name: module} of the surer half of `asked`, by the letters of names whose modules are known."""
    letters = CountVectorizer(analyzer="char_wb", ngram_range=(1, 3))
    fitted = make_pipeline(letters, LogisticRegression(max_iter=500)).fit(names, labels)
    shares = fitted.predict_proba(asked)
    sure = np.argsort(-shares.max(axis=1), kind="stable")[: len(asked) // 2]
    return {asked[k]: fitted.classes_[shares[k].argmax()] for k in sure}


def _related(rng, name, title):
    """A masked text and a relation to name, of one of the three things that are known of a name."""
    words = [word for word in name.split("_") if word]
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
