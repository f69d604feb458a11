"""Text to syntax tree, for text that nobody has looked at yet."""

import ast
import keyword
import math
import re
import warnings

from selmix.errors import UsageError

LONGEST = 2000  # characters
DEEPEST = 40  # operations inside one another
_SHOWN = 60
_OF_A_CLASS = re.compile(r"""\b(recall|precision|coverage)\[([^\[\]"']*[^\W\d_][^\[\]"']*)\]""")


def parse_syntax(text: str) -> ast.expr:
    """Return the syntax tree of one expression; nothing in it is run.

    Raises:
        UsageError: if it is none, or too long or too deep to be meant.
    """
    if len(text) > LONGEST:
        raise UsageError(f"the expression has {len(text)} characters; {LONGEST} is the most")
    _check_class_names(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as "1if": an error to be, and a mistake already
            return ast.parse(text.strip(), mode="eval").body
    except (RecursionError, MemoryError) as error:
        raise UsageError(f"{shortened(text)} is nested too deep") from error
    except (SyntaxError, ValueError, Warning) as error:
        reason = error.msg.partition(". ")[0] if isinstance(error, SyntaxError) else str(error)  # guesses mislead here
        hint = '; a class name that is not a plain word needs quotes: recall["T-shirt"]' if "[" in text else ""
        if text.strip().endswith(".py"):
            hint = "; a function of your own is FILE.py:FUNCTION"
        if "=>" in text or "=<" in text:
            hint = "; the signs are >= and <="
        raise UsageError(f"{shortened(text)!r} is no expression: {reason}{hint}") from error


def _check_class_names(text: str) -> None:
    """Refuse a class name that cannot stand in brackets without quotes, and say how to write it."""
    for rate, within in _OF_A_CLASS.findall(text):
        name = within.strip()
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UsageError(
                f"{rate}[{shortened(name)}]: a class is a name or a number from 0, and a name that is not a plain word "
                f'needs quotes: {rate}["{shortened(name)}"]; in a shell put single quotes around the whole'
            )


def split_texts(text: str) -> list[str]:
    """Split at the commas outside parentheses, brackets and quotes; what is not closed is not split.

    >>> split_texts("accuracy, min(recall[cat], recall[dog]), recall['a,b']")
    ['accuracy', 'min(recall[cat], recall[dog])', "recall['a,b']"]
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def shown(node: ast.expr) -> str:
    """Return a piece of an expression as the user might have written it, shortened."""
    try:
        return shortened(ast.unparse(node))
    except (RecursionError, ValueError):
        return type(node).__name__


def number(node: ast.expr) -> float:
    """Return a number that stands there as such, signed or not, or as a fraction of two such.

    Raises:
        UsageError: if it is none, or not finite.
    """
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            try:
                if math.isfinite(value):
                    return float(value)
            except OverflowError:
                pass
            raise UsageError(f"{shown(node)} is too large")
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as inner):
            return -number(inner)
        case ast.BinOp(left=ast.Constant() as left, op=ast.Div(), right=ast.Constant() as right) if number(right):
            return number(left) / number(right)
    raise UsageError(f"{shown(node)} must be a plain number")


def refuse(node: ast.expr) -> UsageError:
    """Return the error for something outside the grammar."""
    match node:
        case ast.Compare():
            what = "a comparison is a constraint, not a metric"
        case ast.Call():
            what = "min(..., ...) and max(..., ...) are the only functions"
        case ast.Subscript():
            what = "brackets go with recall[CLASS], precision[CLASS] and coverage[CLASS]"
        case _:
            what = "there are numbers, k, metric names, recall[CLASS], + - * / **, min and max"
    return UsageError(f"{shown(node)} is not understood: {what}")


def shortened(text: str) -> str:
    """Return text that fits into an error message."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
