"""Text as rows of tokens: nothing is lost, masks say what is predicted, documents stay apart."""

import json

import numpy as np
import pytest

from kdjax.data import text

DOCUMENTS = {
    "a.py": "def add(left, right):\n    return left + right\n" * 6,
    "b.py": "class Store:\n    def put(self, key, value):\n        self.items[key] = value\n" * 6,
    "c.py": "# naïve café, 日本語\nprint('hello world')\n" * 6,
    "d.py": "import json\nfor line in open('x'):\n    print(json.loads(line))\n" * 6,
    "e.py": "x = [i ** 2 for i in range(10)]\nassert sum(x) == 285\n" * 6,
}
TOKENIZER = text.train_tokenizer(DOCUMENTS.values(), 300)
END = text.end_token(TOKENIZER)


def test_the_standard_library_is_the_same_every_time_and_has_no_private_modules():
    first, again = text.standard_library(), text.standard_library()
    assert text.text_fingerprint(first) == text.text_fingerprint(again)
    assert "argparse.py" in first and not any(name.startswith("_") for name in first)
    changed = {**first, "argparse.py": first["argparse.py"] + " "}
    assert text.text_fingerprint(changed) != text.text_fingerprint(first)


def test_a_folder_and_a_file_are_read_by_name_and_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "b.py").write_text("two", encoding="utf-8")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    assert text.read_text(tmp_path) == {"sub/a.txt": "one", "b.py": "two"}
    assert text.read_text(tmp_path / "b.py") == {"b.py": "two"}
    with pytest.raises(ValueError, match="c.bin is not UTF-8"):
        text.read_text(tmp_path / "c.bin")
    with pytest.raises(FileNotFoundError, match="no file"):
        text.read_text(tmp_path / "nowhere")


def test_splits_are_whole_documents_and_do_not_depend_on_the_order_of_the_names():
    splits = text.split_documents(DOCUMENTS, validation=0.1, test=0.2)
    names = [name for part in splits for name in part]
    assert sorted(names) == sorted(DOCUMENTS) and all(splits)
    backwards = dict(reversed(DOCUMENTS.items()))
    assert text.split_documents(backwards, validation=0.1, test=0.2) == splits
    with pytest.raises(ValueError, match="leave some for training"):
        text.split_documents(DOCUMENTS, validation=0.5, test=0.5)


def test_the_tokenizer_reads_any_text_and_is_the_same_every_time():
    for written in (*DOCUMENTS.values(), "🙂 \x00\r\n\t unseen Ω <|end|>"):
        tokens = text.encode(TOKENIZER, written).tokens
        assert TOKENIZER.decode(tokens.tolist(), skip_special_tokens=False) == written
        assert END not in tokens  # what looks like the end token is text
    assert text.train_tokenizer(DOCUMENTS.values(), 300).to_str() == TOKENIZER.to_str()
    with pytest.raises(ValueError, match="at least 257, got 256"):
        text.train_tokenizer(["x"], 256)


def test_a_tokenizer_comes_back_from_its_file_and_other_files_are_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.to_str())
    assert text.load_tokenizer(tmp_path).to_str() == TOKENIZER.to_str()
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="other.json is no tokenizer"):
        text.load_tokenizer(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError):
        text.load_tokenizer(tmp_path / "none.json")
    with pytest.raises(ValueError, match="no token '<eos>'"):
        text.end_token(TOKENIZER, "<eos>")


def test_packing_loses_nothing_and_every_target_is_the_next_token():
    documents = [text.encode(TOKENIZER, written) for written in DOCUMENTS.values()]
    rows = text.pack(documents, 32, end=END)
    stream = np.concatenate([np.concatenate([[END], d.tokens]) for d in documents])
    flat = {name: column.reshape(-1) for name, column in rows.items()}
    np.testing.assert_array_equal(flat["tokens"][: len(stream)], stream)
    inside = flat["mask"]
    assert inside[: len(stream)].all() and not inside[len(stream) :].any()
    np.testing.assert_array_equal(flat["targets"][: len(stream) - 1], stream[1:])
    assert flat["targets"][len(stream) - 1] == END
    sizes = [len(d.tokens) + 1 for d in documents]
    np.testing.assert_array_equal(
        flat["segments"][: len(stream)], np.repeat(np.arange(len(sizes)), sizes)
    )
    assert (flat["segments"][len(stream) :] == len(documents)).all()


def test_prompts_are_read_and_answers_predicted_with_what_ends_them():
    talk = [{"role": "user", "content": "1+1 <|end|>"}, {"role": "assistant", "content": "2"}]
    template = text.ChatTemplate({"user": ("", "<|end|>"), "assistant": ("", "<|end|>")})
    document = text.encode(TOKENIZER, text.chat(talk, template))
    # Two markers, and no third one from what the user wrote.
    assert list(document.tokens).count(END) == 2
    kept = document.tokens[document.kept].tolist()
    assert TOKENIZER.decode(kept, skip_special_tokens=False) == "2<|end|>"
    rows = text.pack([document], 64, end=END)
    predicted = rows["targets"][rows["mask"]].tolist()
    assert predicted == [*kept, END]
    with pytest.raises(ValueError, match="role 'tool'.*assistant"):
        text.chat([{"role": "tool", "content": ""}], template)
    with pytest.raises(TypeError, match="content of message 0"):
        text.chat([{"role": "user", "content": 3}], template)


def write_lines(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def test_answers_of_a_file_become_documents_and_bad_lines_are_named(tmp_path):
    path = write_lines(
        tmp_path / "answers.jsonl",
        {"prompt": "add", "answer": "left + right"},
        {"messages": [{"role": "assistant", "content": "hello"}]},
        {"text": "x = 1"},
    )
    documents = text.read_answers(path, TOKENIZER, text.PLAIN_CHAT)
    kept = [TOKENIZER.decode(d.tokens[d.kept].tolist()) for d in documents]
    assert kept == ["left + right\n\n", "hello\n\n", "x = 1"]
    write_lines(path, {"text": "fine"}, {"answer": "of nothing"})
    with pytest.raises(ValueError, match=r"answers.jsonl, line 2: .*\['answer'\]"):
        text.read_answers(path, TOKENIZER, text.PLAIN_CHAT)


def test_the_best_classes_of_a_served_model_and_the_mass_of_the_others(tmp_path):
    token = TOKENIZER.id_to_token(40)
    row = {
        "prompt": "add",
        "tokens": [40, 41],
        "top_log_probs": [
            [[41, np.log(0.2)], [token, np.log(0.5)], [43, np.log(0.1)]],
            [[41, 0.0]],
        ],
    }
    (document,) = text.read_answers(
        write_lines(tmp_path / "top.jsonl", row), TOKENIZER, text.PLAIN_CHAT, top_k=2
    )
    assert document.tokens[document.kept].tolist() == [40, 41]
    columns = {name: column[document.kept] for name, column in document.columns.items()}
    assert columns["teacher_classes"].tolist() == [[40, 41], [41, 0]]
    np.testing.assert_allclose(
        np.exp(columns["teacher_log_probs"]), [[0.5, 0.2], [1, 0]], rtol=1e-6
    )
    np.testing.assert_allclose(np.exp(columns["teacher_log_tail"]), [0.3, 0], atol=1e-6)
    rows = text.pack([document], 64, end=END)
    at = np.flatnonzero(rows["mask"][0])
    # A signal stands where its token is predicted from.
    assert rows["targets"][0, at].tolist() == [40, 41]
    assert rows["teacher_classes"][0, at].tolist() == [[40, 41], [41, 0]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"top_log_probs": [[[40, 0.0]]]}, "2 tokens and top_log_probs of 1"),
        ({"tokens": [40, 9999]}, "no token 9999"),
        ({"top_log_probs": [[[40, -1.0], [40, -1.0]], []]}, "names a class twice"),
        ({"top_log_probs": [[[40, 0.5]], []]}, "at most 0"),
        ({"tokens": None}, "line 1"),
    ],
)
def test_what_is_no_top_k_answer_is_refused(change, message, tmp_path):
    row = {"prompt": "p", "tokens": [40, 41], "top_log_probs": [[[40, 0.0]], [[41, 0.0]]]}
    path = write_lines(tmp_path / "top.jsonl", {**row, **change})
    with pytest.raises(ValueError, match=message):
        text.read_answers(path, TOKENIZER, text.PLAIN_CHAT, top_k=2)


def test_prompts_are_of_one_document_and_written_rows_end_where_the_text_does():
    rows = {
        "tokens": np.arange(12).reshape(3, 4),
        "segments": np.array([[0, 0, 0, 1], [1, 2, 2, 2], [2, 2, 3, 3]]),
    }
    assert text.whole_prompts(rows, 2).tolist() == [[0, 1], [8, 9]]
    with pytest.raises(ValueError, match="no row begins with 3"):
        text.whole_prompts({**rows, "segments": np.tile([0, 1, 1, 1], (3, 1))}, 3)
    with pytest.raises(ValueError, match="leave some of 4, got 4"):
        text.whole_prompts(rows, 4)
    whole = np.array([[4, END, 6, 7, END, END], [4, 5, 6, 7, 8, 9]])
    written = text.continued(whole[:, :2], whole, end=END)
    assert written["targets"].tolist() == whole[:, 1:].tolist()
    # The end token of the prompt is not that of the answer.
    assert written["mask"].astype(int).tolist() == [[0, 1, 1, 1, 0], [0, 1, 1, 1, 1]]


def test_bags_count_the_trigrams_of_a_line_on_a_log_scale():
    bags = text.trigram_bags(["aaaa", "ab", "AB"], 1024)
    # " aa", "aaa" twice, "aa ": counts on a log scale, of the length of the root of 1024.
    counts = np.log1p([1, 1, 2])
    np.testing.assert_allclose(
        np.sort(bags[0])[-3:], 32 * counts / np.linalg.norm(counts), rtol=1e-6
    )
    np.testing.assert_array_equal(bags[1], bags[2])
    np.testing.assert_allclose(np.linalg.norm(bags, axis=1), 32, rtol=1e-6)
