"""Sphinx extension: writes formulas as MathML, which browsers render without scripts and without a network."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert as with_variants
from sphinx.util.math import get_node_equation_number

DOUBLE_STRUCK = {"C": "ℂ", "E": "𝔼", "N": "ℕ", "P": "ℙ", "R": "ℝ", "Z": "ℤ"}


def convert(formula, display="inline"):
    """A formula as MathML. Browsers ignore the attribute for double-struck letters, so letters of their own stand."""
    pattern = r'<mi mathvariant="double-struck">(\w)</mi>'
    return re.sub(pattern, lambda found: f"<mi>{DOUBLE_STRUCK[found[1]]}</mi>", with_variants(formula, display=display))


def inline(translator, node):
    """Write a formula in a line of text."""
    translator.body.append(f'<span class="math notranslate">{convert(node.astext())}</span>')
    raise SkipNode


def block(translator, node):
    """Write a formula on lines of its own, with its number if it has a label."""
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(convert(node.astext(), "block") + "</div>\n")
    raise SkipNode


def setup(app):
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
