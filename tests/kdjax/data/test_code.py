"""What Python sources say of themselves: kinds of characters, documented functions, lines, words."""

import numpy as np

from kdjax.data import code


def test_every_character_has_the_kind_of_its_token():
    source = 'if x1 >= 20:  # why\n    y = "a\\n" + f(z)\n'
    shown = "".join('_nkod"#'[kind] if kind else " " for kind in code.character_kinds(source))
    assert shown == "kk nn oo ddo  ##### " + '    n o """"" o nono '


def test_distinct_lines_are_of_one_document_and_begin_with_a_token_of_their_own():
    documents = ["a = b\nc = d\na b c d e f", "c = d\nb = a\nx"]
    lines = code.distinct_lines(documents, words=3, length=5)
    read = [" ".join(lines.words[token] for token in row if token) for row in lines.tokens]
    known = set(lines.words[3:])
    assert known <= set("abcd=") and len(known) == 3
    wanted = [["a", "=", "b"], ["b", "=", "a"]]
    assert read == [
        " ".join(["first", *(word if word in known else "other" for word in line)])
        for line in wanted
    ]
    assert lines.document.tolist() == [0, 1] and lines.tokens.dtype == np.int32


def test_functions_are_found_at_any_depth_with_and_without_documentation():
    source = 'def f(a):\n    """ One.\n\n    Two. """\n    async def g(self, *more): pass\n'
    assert list(code.documented_functions(source)) == [("f(a)", "One."), ("g()", "")]


def test_words_of_comments_leave_code_and_plain_strings_out():
    source = 'def name():\n    """Some Words, x2."""\n    return "plain"  # and_more\n'
    assert code.comment_words(source) == ["some", "words", "and", "more"]
