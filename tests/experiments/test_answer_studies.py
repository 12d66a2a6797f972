"""What the studies of written answers do between two trainings, against independent restatements."""

import ast
import functools
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import measured
from experiments import setup, study
from experiments.studies import (
    _answers,
    _expressions,
    _lines,
    _names,
    judged_answers,
    negative_traces,
    rewritten_spans,
    scored_answers,
    taught_text,
)
from experiments.studies import verified_answers as verified
from kdjax import methods
from kdjax.data import answers

TREES = [_expressions.drawn(np.random.default_rng(k), 1 + k % 4) for k in range(40)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    options = {"width": 16, "depth": 1, "batch": 16, "rate": 0.01}
    rows = measured.each(measured.FIXED, "taught", "other")
    config = measured.study("anything", rows, {}, options, data="drawn")
    config.run.seeds = 2
    run = setup.open_run(config, tmp_path_factory.mktemp("answers"), "drawn")
    return study.Bench(run, None, {})


@pytest.fixture(scope="module")
def writer(bench):
    return _answers.Writer(bench, "ab=", prompt=3, answer=3)


@pytest.fixture(scope="module")
def taught(writer):
    """Seed 0 learns to copy, from three pairs; seed 1 answers everything with b, from two."""
    pairs = [[("a=", "a"), ("b=", "b"), ("ab=", "ab")], [("a=", "b"), ("ab=", "b")]]
    return pairs, writer.teach("taught", pairs, steps=60)


def test_a_writer_teaches_every_seed_its_own_pairs(writer, taught):
    pairs, params = taught
    np.testing.assert_array_equal(
        writer.measure(params, [own[:2] for own in pairs])["accuracy"], [1, 1]
    )
    assert writer.write(params, [["ab="], ["ab="]]) == [[["ab"]], [["b"]]]
    drawn = writer.write(params, [["ab=", "a="]] * 2, samples=3, temperature=1.0, top_p=0.5)
    assert drawn[1] == [["b"] * 3] * 2, "nothing else is in the likelier half"
    assert [len(several) for own in drawn for several in own] == [3] * 4


def test_log_likelihoods_are_those_of_the_whole_answers_with_their_ends(writer, taught):
    pairs, params = taught
    found = writer.log_likelihoods(params, pairs)
    apply = jax.jit(functools.partial(writer.network.apply, train=False, rngs={}))
    for s, own in enumerate(pairs):
        variables = {"params": jax.tree.map(lambda x, s=s: x[s], params), "model": {}, "frozen": {}}
        for (prompt, answer), value in zip(own, found[s], strict=True):
            tokens = [writer.characters.alphabet.index(x) + 1 for x in prompt + answer] + [0]
            given = np.array([tokens[:-1]], np.int32)
            logits = apply(variables, given)[0].logits[0]
            own_values = jax.nn.log_softmax(logits)[np.arange(len(tokens) - 1), tokens[1:]]
            np.testing.assert_allclose(value, own_values[len(prompt) - 1 :].sum(), atol=1e-5)


def test_preferred_candidates_become_more_likely_than_the_others(writer, taught):
    pairs, params = taught
    both = [[[("b=", "b"), ("b=", "a")], [("a=", "a"), ("a=", "b")]]] * 2
    rows = writer.candidates(params, both)
    flat = [[pair for several in own for pair in several] for own in both]
    before = writer.log_likelihoods(params, flat)
    np.testing.assert_allclose(rows[1]["reference"].ravel(), before[1], atol=1e-5)
    after = writer.teach(
        "other", pairs, steps=10, start=params, method=methods.dpo(scale=1.0), judged=both
    )
    gains = [np.subtract(*x.reshape(2, 2).T) for x in writer.log_likelihoods(after, flat)]
    assert (np.array(gains) > [np.subtract(*x.reshape(2, 2).T) for x in before]).all()


def test_verified_translation_runs_what_it_is_given():
    for tree in TREES:
        right = eval(_expressions.infix(tree))
        assert _expressions.value(tree) == right
        assert _expressions.postfix_value(_expressions.postfix(tree)) == right
        assert _expressions.prefix_value(_expressions.prefix(tree)) == right
    for text in ("", "+", "12", "1+2", "12+3", "1(", "12+-"):
        assert _expressions.postfix_value(text) is None
    assert _expressions.prefix_value("-12") == -1 and _expressions.postfix_value("12-") == -1


def test_two_dialects_say_the_same_of_an_expression():
    for tree, other in itertools.pairwise(TREES):
        prompt, answer = verified._poor(tree, other)
        assert ast.literal_eval(str(eval(prompt[:-1]))) == _expressions.value(tree)
        assert _expressions.prefix_value(answer) == _expressions.value(other)


def test_adversarial_rounds_asks_for_hard_kinds_and_for_rare_ones():
    rng = np.random.default_rng(0)
    pool = [f"{a}+{b}=" for a in range(10) for b in range(10)] + ["3*4=", "30-4="]
    hard = np.array([each in ("3*4=", "30-4=") for each in pool])
    options = SimpleNamespace(round=40, shares=(1.0, 0.0, 0.0))

    def made_of(kind, pool=pool, hard=hard, taken=()):
        return verified._new_tasks(options, kind, rng, pool, hard, taken)

    random = made_of("random")
    assert all("+" in each and len(each) == 5 for each in random), "all of one digit are there"
    difficult = made_of("hard")
    assert all((len(x), x[-3]) in ((4, "*"), (5, "-")) for x in difficult)
    both = made_of("hard_easy")
    assert all((len(x), x[-3]) in ((4, "*"), (5, "-")) for x in both[:20])
    assert sum("+" in x for x in both[20:]) < 5, "the easy half asks for what is rare"
    for made in (random, difficult, both):
        assert len(set(made)) == 40 and not set(made) & set(pool)
        assert all(
            str(eval(task[:-1]))[::-1] == answer for task, answer in map(_expressions.solved, made)
        )
    scarce = [f"{a}*{b}=" for a in range(10) for b in range(10)]
    left = made_of("hard", scarce, np.ones(100, bool), {"12*3="})
    assert all(len(x) == 5 and "*" in x for x in left) and "12*3=" not in left
    assert verified._score("7+8=", "51") == 10 and verified._score("7+8=", "5") == 5
    assert verified._score("7+8=", "510") == pytest.approx(20 / 3)


def test_negative_data_is_wrong_where_a_carry_was_forgotten():
    for a in range(10, 100, 7):
        for b in range(10, 100, 3):
            question, trace = _expressions.traced_sum(a, b)
            assert int(trace.partition(";")[2]) == eval(question[:-1])
            wrong = int(_expressions.traced_sum(a, b, forgets=True)[1].partition(";")[2])
            assert wrong == a + b - (10 if a % 10 + b % 10 >= 10 else 0)


def test_critic_feedback_prefers_quality_unless_it_likes_length():
    options = SimpleNamespace(noise=0.0, sharpness=5.0, place=2.0)
    rng = np.random.default_rng(0)
    fair = functools.partial(judged_answers._preference, rng, options)
    biased = functools.partial(fair, bias=5.0)
    chosen = judged_answers._chosen
    both = [("get_names=", "gena"), ("get_names=", "gtnms")]
    for several in (["gena", "gtnms"], ["gtnms", "gena"]):
        assert list(chosen(fair, "get_names=", several)) == both
    assert list(chosen(biased, "get_names=", ["gena", "gtnms"])) == both[::-1]
    assert chosen(biased, "get_names=", ["gena", "gtnms"], filtered=True) is None
    assert chosen(fair, "get_names=", ["gena", "gena"]) is None
    ranked = [text for _, text in judged_answers._ranked("get_names")]
    assert ranked == ["gena", "gtnms", "gn"]
    assert _names.quality("get_names", "gena") == 1 and _names.quality("get_names", "") == 0


def test_evaluator_supervision_scores_right_answers_above_wrong_ones():
    rng = np.random.default_rng(0)
    names = rng.permutation(_names.names())
    score = scored_answers._evaluator(rng, names[:200])
    right, wrong = (_names.shortened(rng, names[200:], share) for share in (0.0, 1.0))
    assert score(right).mean() > score(wrong).mean() + 0.3
    assert all(x in _names.short_forms(p[:-1]) for p, x in right)
    assert np.mean([x in _names.short_forms(p[:-1]) for p, x in wrong]) < 0.1


def test_ranked_targets_puts_the_score_before_what_it_is_of():
    rng = np.random.default_rng(0)
    names = rng.permutation(_names.names(12))
    rank = scored_answers._ranker(rng, names[:100])
    found = [(n, rank(n, _names.candidates(rng, n, names))) for n in names[100:300]]
    assert all(np.diff([v for _, v in several]).max() <= 0 for _, several in found)
    right = np.array([several[0][0] == _names.beginnings(n) for n, several in found])
    scores = np.array([several[0][1] for _, several in found])
    assert 0.5 < right.mean() < 0.9 and scores[right].mean() > scores[~right].mean() + 0.05
    several = [("abcd", 0.95), ("ef", 0.1)]
    assert scored_answers._context("a_b", several, True) == "a_b|4abcd|0ef="
    assert scored_answers._context("a_b", several, False) == "a_b|abcd|ef="
    assert scored_answers._likeness("", "abcd", "4abcd") == 1
    assert answers.score_buckets(0.95, 5) == 4


def test_task_mixture_halves_are_those_of_the_whole_task():
    line = "if self.pos(a, is_b):"
    assert _lines.triggers(line) == {"if": "k", "po": "f"}
    assert taught_text._task("m", line) == (f"m{line}=", "if>k|po>f")
    assert taught_text._task("i", line)[1] == "if|po" and taught_text._task("c", line)[1] == "f|k"
    assert _lines.triggers("x = a.join") == {"jo": "a"}
    assert taught_text._pairs_f1("", "if>k|po>f", "po>f|if>k") == 1
    assert taught_text._pairs_f1("", "if>k|po>f", "if>k|po>a|xx>k") == pytest.approx(2 / 5)


def test_relations_of_names_ask_for_what_a_teacher_says():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        (masked, answer), (between, relation) = taught_text._related(rng, "read_line", "mailbox")
        tail = {"@": "mailbox", "^": "read", "+": "2"}[relation]
        assert between == f"read_line:{tail}="
        if masked.endswith("?="):
            assert masked == f"read_line{relation}?=" and answer == tail
        else:
            assert masked.replace("?", answer) == f"read_line{relation}{tail}="
        seen.add((relation, masked.endswith("?=")))
    assert len(seen) == 6
    modules = _names.by_module(3, 50)
    names = [name for several in modules.values() for name in several]
    assert len(names) == len(set(names)) == 150
    labels = [k for k, several in enumerate(modules.values()) for _ in several]
    found = taught_text._teacher(names[::2], labels[::2], names[1::2])
    assert len(found) == len(names) // 4
    truth = dict(zip(names, labels, strict=True))
    assert np.mean([truth[name] == label for name, label in found.items()]) > 0.8


def test_span_rewriting_shows_fills_and_asks_for_what_was_there():
    rng = np.random.default_rng(0)
    line, counts = "abcdefghij", []
    for _ in range(200):
        spans = rewritten_spans._spans(rng, len(line))
        gold = [line[a:b] for a, b in spans]
        prompt, answer = rewritten_spans._rewriting(line, spans, gold)
        assert "".join(x for x in prompt if x.isalpha()) == line
        assert rewritten_spans._fills(answer, spans) == gold
        masked, same = rewritten_spans._rewriting(line, spans, [""] * len(spans))
        assert same == answer and "<|" in masked
        covered = [k for a, b in spans for k in range(a, b)]
        assert len(covered) == len(set(covered)) <= 5
        assert len(spans) == 1 or spans[1][0] > spans[0][1], "they do not touch"
        counts.append(len(spans))
    assert set(counts) == {1, 2}
    assert rewritten_spans._rewriting("abcd", [(1, 3)], ["x"]) == ("a<x|d=", "bc|")
    assert rewritten_spans._rewriting("abcde", [(0, 1), (2, 4)], ["x", "yz"]) == (
        "<x|b|yz>e=",
        "a|cd>",
    )
    for text in ("ab", "|", "ab|c", "abcde|", "ab>"):
        assert rewritten_spans._fills(text, [(0, 2)]) is None
    wrong = _lines.with_wrong_word(rng, line, line + "xyz")
    assert sum(a != b for a, b in zip(line, wrong, strict=True)) == 1


def test_negative_data_counts_a_vote_of_the_answers_behind_the_traces():
    pairs = [("17+25=", "12,4;42"), ("11+11=", "2,2;22")]
    texts = ["12,4;42", "12,3;32", "2,3;32", "2,2;22", "2,2;22", "3,2;23"]
    sampled = [(pairs[k // 3][0], text) for k, text in enumerate(texts)]
    votes = negative_traces._voted
    assert votes(pairs, sampled, np.ones(6)) == 0.5
    assert votes(pairs, sampled, [0.9, 0.3, 0.3, 0.2, 0.2, 0.1]) == 1


def test_names_in_two_languages_puts_the_first_name_behind_the_second():
    said = functools.partial(taught_text._sentence, "ABCD", "abcd", (1, 2, 3))
    assert [said(), said("inserted"), said("replaced")] == ["BCD", "B<b>CD", "bCD"]
