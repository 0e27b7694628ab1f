"""A tool for training with tools: exact arithmetic. 训练时可调用的工具：精确算术。"""

import ast
import operator

OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
FULL_WIDTH = str.maketrans("０１２３４５６７８９＋－×÷（）．", "0123456789+-*/().")


def calculate(expression: str) -> str:
    """Evaluate an arithmetic expression. 计算一个算术表达式。

    Args:
        expression: Numbers with + - * / and brackets, such as 17 * (3 + 4). 由数字、加减乘除与括号组成的算式。
    """
    value = value_of(ast.parse(expression.translate(FULL_WIDTH).strip(), mode="eval").body)
    return str(int(value)) if value == int(value) else str(value)


def add(a: float, b: float) -> float:
    """Add two numbers. 两数相加。

    Args:
        a: The first number. 第一个数。
        b: The second number. 第二个数。
    """
    return a + b


def value_of(node: ast.expr) -> float:
    """Numbers and the four operations, and nothing else that Python could run."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value_of(node.left), value_of(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value_of(node.operand))
    raise ValueError("only numbers, + - * / and brackets can be calculated")
