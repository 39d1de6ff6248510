"""Random architectures that have a limit: from a seed to a recipe, a torch module, and textbook covariances.

`recipe_of(seed)` is frozen data; `print(recipe_of(seed))` shows the network of a seed. `steps` is its language,
`drawing` and `draw_layers` draw it, `torch_models` makes a module to trace or to draw (with `modules`), `textbook` the
covariances by `oracles/`, and `checks` holds one against the other.
"""

from random_architectures.drawing import recipe_of
from random_architectures.features import features_of
from random_architectures.steps import Recipe
from random_architectures.textbook import covariances
from random_architectures.torch_models import model_of

__all__ = ["Recipe", "covariances", "features_of", "model_of", "recipe_of"]
