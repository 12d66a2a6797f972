"""Arithmetic on digits as a language: drawn trees, their notations, and what a notation is worth."""

import operator

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
CHARACTERS = "0123456789+-*()="


def drawn(rng, leaves: int, operators="+-*"):
    """A tree of so many digits: a digit, or (operator, left, right)."""
    if leaves == 1:
        return str(rng.integers(10))
    left = int(rng.integers(1, leaves))
    own = operators[rng.integers(len(operators))]
    return own, drawn(rng, left, operators), drawn(rng, leaves - left, operators)


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
