"""What a recipe asks of its base, compared with what the base can do."""

from __future__ import annotations

from seekr_lite.common.errors import UserError
from seekr_lite.recipe.recipe import Recipe


def check_against_base(recipe: Recipe) -> None:
    """Refuses what the base cannot do, from its configuration alone."""
    from seekr_lite.methods.registry import method_class
    from seekr_lite.model.base import load_config

    method = method_class(recipe.method.name)
    method.read_options(recipe.method)
    if method.growth == "continue" and recipe.adapter.growth != "continue":
        raise UserError(f'adapter.growth = "stack": the method "{method.name}" works on "continue" only')
    config = load_config(recipe.base).get_text_config()
    if method.looks_into_attention:
        from seekr_lite.attention.selection import resolve_budgets

        layers, heads = (getattr(config, name, None) for name in ("num_hidden_layers", "num_attention_heads"))
        if not isinstance(layers, int) or not isinstance(heads, int):
            raise UserError(f"base.model {recipe.base.model}: its configuration has no number of layers and heads")
        resolve_budgets(recipe.method, layers, heads)
    longest = getattr(config, "max_position_embeddings", None)
    asked = recipe.data.max_prompt_tokens + recipe.data.max_answer_tokens
    extra = method.extra_tokens(recipe)
    if isinstance(longest, int) and 0 < longest < asked + extra:
        prompt = f" and a soft prompt of {extra}" if extra else ""
        raise UserError(
            f"data.max_prompt_tokens + data.max_answer_tokens = {asked}{prompt}: the base reads at most {longest} "
            "tokens; lower one of them (`seekr-lite data check` shows how long the rows are)"
        )
