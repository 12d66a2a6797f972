"""Arithmetic as a language: drawn trees and problems, their notations, and what a notation is worth."""

import operator

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
CHARACTERS = "0123456789+-*()="


def drawn(rng, leaves: int | None = None):
    """A tree of so many digits, of two to four by default: a digit, or (operator, left, right)."""
    leaves = leaves or int(rng.integers(2, 5))
    if leaves == 1:
        return str(rng.integers(10))
    left = int(rng.integers(1, leaves))
    return list(OPERATORS)[rng.integers(3)], drawn(rng, left), drawn(rng, leaves - left)


def infix(tree) -> str:
    """With parentheses around every operand that is no digit."""
    if isinstance(tree, str):
        return tree
    left, right = (infix(x) if isinstance(x, str) else f"({infix(x)})" for x in tree[1:])
    return left + tree[0] + right


def postfix(tree) -> str:
    return tree if isinstance(tree, str) else postfix(tree[1]) + postfix(tree[2]) + tree[0]


def prefix(tree) -> str:
    return tree if isinstance(tree, str) else tree[0] + prefix(tree[1]) + prefix(tree[2])


def value(tree) -> int:
    if isinstance(tree, str):
        return int(tree)
    return OPERATORS[tree[0]](value(tree[1]), value(tree[2]))


def postfix_value(text: str, *, reverse=False) -> int | None:
    """What a stack machine makes of the text; None where it does not run. `reverse` reads prefix."""
    stack: list[int] = []
    for each in reversed(text) if reverse else text:
        if each in OPERATORS and len(stack) >= 2:
            last, first = stack.pop(), stack.pop()
            stack.append(OPERATORS[each](*((last, first) if reverse else (first, last))))
        elif each.isdigit():
            stack.append(int(each))
        else:
            return None
    return stack[0] if len(stack) == 1 else None


def prefix_value(text: str) -> int | None:
    """The value of an expression in prefix notation; None where it is none."""
    return postfix_value(text, reverse=True)


def problem(rng, shares=(1 / 3, 1 / 3, 1 / 3), digits: int = 0) -> str:
    """A number of so many digits (one or two), an operator by its share, a digit: `12+3=`."""
    most = 10 ** (digits or rng.integers(1, 3))
    return f"{rng.integers(most // 10, most)}{'+-*'[rng.choice(3, p=shares)]}{rng.integers(10)}="


def solved(text: str) -> tuple[str, str]:
    """A problem and its value, units first."""
    return text, str(value((text[-3], text[:-3], text[-2])))[::-1]


def traced_sum(first: int, second: int, forgets=False) -> tuple[str, str]:
    """A question and its trace: sum of the units, sum of the tens with the carry, the answer."""
    units = first % 10 + second % 10
    tens = first // 10 + second // 10 + (0 if forgets else units // 10)
    return f"{first}+{second}=", f"{units},{tens};{tens}{units % 10}"
