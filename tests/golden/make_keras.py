"""Writes ``tests/golden/keras``: small models by Keras itself, and what they give for ``input``.

KERAS_BACKEND=jax python tests/golden/make_keras.py      (Keras 3.15.1; the tests need neither it nor JAX)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

BANDS, FRAMES, N_TAGS = 20, 32, 6
FOLDER = Path(__file__).resolve().parent / "keras"


def models(keras: Any) -> dict[str, Any]:
    """The networks by the name of their file."""
    layers = keras.layers
    sequential = keras.Sequential(
        [
            layers.Input((BANDS, FRAMES, 1)),
            layers.BatchNormalization(),
            layers.Conv2D(6, 3, padding="same", activation="relu"),
            layers.MaxPooling2D((2, 4)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(scale=False, epsilon=0.1),
            layers.ELU(),
            layers.MaxPooling2D(2, padding="same"),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dense(10, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(N_TAGS, activation="sigmoid"),
        ]
    )
    x = start = layers.Input((BANDS, FRAMES, 1))
    x = layers.Conv2D(6, 3, padding="same")(x)
    x = layers.BatchNormalization(center=False)(x)
    x = layers.Activation("relu")(x)
    x = layers.MaxPooling2D((2, 4))(x)
    x = layers.Conv2D(8, 3, padding="same", name="a_name_of_its_own")(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D((3, 2), strides=(2, 2))(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(N_TAGS)(x)
    functional = keras.Model(start, layers.Activation("sigmoid")(x))
    inner = keras.Sequential(
        [
            layers.ZeroPadding2D(1),
            layers.Conv2D(6, 3),
            layers.BatchNormalization(),
            layers.ELU(),
            layers.MaxPooling2D(4),
        ]
    )
    nested = keras.Sequential(
        [
            layers.Input((FRAMES, BANDS)),  # time first, without an axis of channels
            layers.Reshape((FRAMES, BANDS, 1)),
            layers.Rescaling(0.5, 0.1),
            layers.BatchNormalization(axis=2),
            inner,
            layers.Conv2D(8, 1),
            layers.GlobalMaxPooling2D(keepdims=True),
            layers.Flatten(),
            layers.Dense(N_TAGS),
        ]
    )
    first = keras.Sequential(
        [
            layers.Input((1, BANDS, FRAMES)),
            layers.Conv2D(6, 3, padding="same", data_format="channels_first"),
            layers.BatchNormalization(axis=1),
            layers.ReLU(),
            layers.MaxPooling2D((5, 8), data_format="channels_first"),
            layers.Flatten(),
            layers.Dense(N_TAGS, activation="sigmoid"),
        ]
    )
    blocks = [
        layer
        for _ in range(11)
        for layer in (layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(), layers.ReLU())
    ]
    weights = keras.Sequential(
        [
            layers.Input((BANDS, FRAMES, 1)),
            layers.BatchNormalization(),
            *blocks,
            layers.MaxPooling2D((10, 8)),
            layers.Flatten(),
            layers.Dense(N_TAGS, activation="sigmoid"),
        ]
    )
    return {
        "sequential.keras": sequential,
        "functional.h5": functional,
        "functional.keras": functional,
        "nested.keras": nested,
        "first.keras": first,
        "blocks.weights.h5": weights,
    }


def main() -> None:
    """Write every model, and the scores of them all."""
    import keras

    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (3, BANDS, FRAMES)).astype(np.float32)
    arrays = {"input": x}
    done: set[int] = set()
    for name, model in models(keras).items():
        for value in model.variables if id(model) not in done else ():
            if "moving_variance" in value.path:
                value.assign(rng.uniform(0.3, 2, value.shape))
            elif any(part in value.path for part in ("moving_mean", "beta", "bias")):
                value.assign(rng.normal(size=value.shape) * 0.3)
            elif "gamma" in value.path:
                value.assign(rng.normal(size=value.shape))
        done.add(id(model))
        (model.save_weights if name.endswith(".weights.h5") else model.save)(FOLDER / name)
        shape = model.input_shape[1:]
        y = x.transpose(0, 2, 1) if shape[0] == FRAMES else x
        arrays[name.partition(".")[0]] = np.asarray(model(y.reshape(len(x), *shape)))
    np.savez(FOLDER / "results.npz", **arrays)


if __name__ == "__main__":
    main()
