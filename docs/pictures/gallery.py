"""Draws the gallery again, page and pictures: `python docs/pictures/gallery.py`.

Models of KerasHub take `pip install keras-hub`. Weights are random: pictures do not show them.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras import layers

import kerassplit as ks
from kerassplit.pictures import Drawing

FOLDER = Path(__file__).resolve().parent / "gallery"
PAGE = Path(__file__).resolve().parent / "gallery.md"


def application(name: str) -> keras.Model:
    return getattr(keras.applications, name)(weights=None)


def unet() -> keras.Model:
    """Four levels down and up, as Keras names the layers."""
    image = x = keras.Input((128, 128, 3))
    skips = []
    for filters in (32, 64, 128, 256):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(512, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(512, 3, padding="same", activation="relu")(x)
    for filters in (256, 128, 64, 32):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = layers.Concatenate()([x, skips.pop()])
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Conv2D(2, 1, activation="softmax", name="mask")(x), name="unet")


def bert() -> keras.Model:
    import keras_hub

    return keras_hub.models.BertBackbone(
        vocabulary_size=30522, num_layers=12, num_heads=12, hidden_dim=768, intermediate_dim=3072
    )


def gpt2() -> keras.Model:
    import keras_hub

    return keras_hub.models.GPT2Backbone(
        vocabulary_size=50257, num_layers=12, num_heads=12, hidden_dim=768, intermediate_dim=3072
    )


def vit() -> keras.Model:
    import keras_hub

    return keras_hub.models.ViTBackbone(
        image_shape=(224, 224, 3), patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072
    )


def vit_by_hand() -> keras.Model:
    """As the example on keras.io has it: attention and perceptron of each block, named by Keras."""
    image = keras.Input((72, 72, 3))
    x = layers.Conv2D(64, 6, strides=6, name="patches")(image)
    x = layers.Reshape((144, 64), name="sequence")(x)
    for _ in range(8):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([layers.MultiHeadAttention(4, 64, dropout=0.1)(y, y), x])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(128, activation="gelu")(y)
        x = layers.Add()([layers.Dense(64, activation="gelu")(y), x])
    x = layers.GlobalAveragePooling1D(name="pool")(layers.LayerNormalization(name="last_norm")(x))
    return keras.Model(image, layers.Dense(100, name="classifier")(x), name="vit_by_hand")


def siamese() -> keras.Model:
    image = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(32, 3, activation="relu")(image)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    tower = keras.Model(image, layers.Dense(64)(layers.GlobalAveragePooling2D()(x)), name="tower")
    left, right = keras.Input((28, 28, 1), name="left"), keras.Input((28, 28, 1), name="right")
    distance = layers.Subtract(name="difference")([tower(left), tower(right)])
    same = layers.Dense(1, activation="sigmoid", name="same")(distance)
    return keras.Model([left, right], same, name="siamese")


def mlp() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ],
        name="mlp",
    )


def lstm() -> keras.Model:
    words = keras.Input((None,), dtype="int32", name="words")
    x = layers.Embedding(20000, 128, mask_zero=True)(words)
    x = layers.Bidirectional(layers.LSTM(64, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(64))(x)
    return keras.Model(words, layers.Dense(1, activation="sigmoid")(x), name="sentiment")


def tickets() -> keras.Model:
    """The model with several inputs and outputs of the guide to the functional API."""
    title = keras.Input((None,), dtype="int32", name="title")
    body = keras.Input((None,), dtype="int32", name="body")
    tags = keras.Input((12,), name="tags")
    title_features = layers.LSTM(128, name="title_lstm")(layers.Embedding(10000, 64, name="title_words")(title))
    body_features = layers.LSTM(32, name="body_lstm")(layers.Embedding(10000, 64, name="body_words")(body))
    x = layers.Concatenate(name="all_features")([title_features, body_features, tags])
    priority = layers.Dense(1, name="priority")(x)
    department = layers.Dense(4, name="department")(x)
    return keras.Model([title, body, tags], {"priority": priority, "department": department}, name="tickets")


def nested() -> keras.Model:
    image = keras.Input((160, 160, 3), name="image")
    x = layers.RandomFlip("horizontal", name="flip")(image)
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(x)
    x = keras.applications.MobileNetV2(input_shape=(160, 160, 3), include_top=False, weights=None)(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(1, name="cat_or_dog")(x), name="transfer")


def autoencoder() -> keras.Model:
    image = x = keras.Input((28, 28, 1))
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, activation="relu", padding="same", strides=2)(x)
    x = layers.Dense(16, name="code")(layers.Flatten()(x))
    x = layers.Reshape((7, 7, 64))(layers.Dense(7 * 7 * 64, activation="relu")(x))
    for filters in (64, 32):
        x = layers.Conv2DTranspose(filters, 3, activation="relu", padding="same", strides=2)(x)
    return keras.Model(image, layers.Conv2D(1, 3, padding="same", name="decoded")(x), name="autoencoder")


def translation() -> keras.Model:
    """An encoder and a decoder of two blocks each, the decoder with attention to what the encoder gives."""
    source = keras.Input((40,), dtype="int32", name="source")
    target = keras.Input((40,), dtype="int32", name="target")
    x = layers.Embedding(8000, 128, name="source_words")(source)
    for block in range(2):
        y = layers.MultiHeadAttention(4, 32, name=f"encoder_{block}_attention")(x, x)
        x = layers.LayerNormalization(name=f"encoder_{block}_norm")(layers.Add(name=f"encoder_{block}_add")([x, y]))
    memory = x
    x = layers.Embedding(8000, 128, name="target_words")(target)
    for block in range(2):
        y = layers.MultiHeadAttention(4, 32, name=f"decoder_{block}_self")(x, x, use_causal_mask=True)
        x = layers.Add(name=f"decoder_{block}_add_self")([x, y])
        y = layers.MultiHeadAttention(4, 32, name=f"decoder_{block}_cross")(x, memory)
        x = layers.LayerNormalization(name=f"decoder_{block}_norm")(layers.Add(name=f"decoder_{block}_add")([x, y]))
    return keras.Model([source, target], layers.Dense(8000, name="next_word")(x), name="translation")


def shared_embedding() -> keras.Model:
    question = keras.Input((30,), dtype="int32", name="question")
    answer = keras.Input((30,), dtype="int32", name="answer")
    words, pool = layers.Embedding(10000, 64, name="words"), layers.GlobalAveragePooling1D(name="average")
    asked = layers.Dense(32, name="asks")(pool(words(question)))
    told = layers.Dense(32, name="answers")(pool(words(answer)))
    return keras.Model([question, answer], layers.Dot(1, name="match")([asked, told]), name="question_answer")


def residual() -> keras.Model:
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", name="stem")(image)
    for block in ("first", "second"):
        y = layers.Conv2D(16, 3, padding="same", name=f"{block}_conv")(x)
        y = layers.BatchNormalization(name=f"{block}_norm")(y)
        x = layers.Add(name=f"{block}_add")([x, y])
    pooled = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(10, name="scores")(pooled), name="residual")


def in_stages(model: keras.Model, count: int) -> ks.Split:
    """Cut into so many stages, at points spread evenly over those there are."""
    names = [point.name for point in ks.split_points(model)]
    return ks.split(model, [names[len(names) * place // count] for place in range(1, count)])


def by_plan(model: keras.Model) -> ks.Split:
    boards = ks.Device("board", "10 GFLOPS", memory="64 MiB", count=4)
    return ks.split(model, ks.plan(model, boards, links=ks.Link("200 Mbit/s")))


WHOLE = ks.plot
MODELS: dict[str, tuple[Callable[[], keras.Model], Callable[[keras.Model], Drawing], str, str]] = {}


def draw(name: str) -> tuple[keras.Model, Drawing]:
    keras.utils.clear_session()
    build, plot, *_ = PICTURES[name]
    model = build()
    return model, plot(model)


PICTURES = {
    "unet": (unet, ks.plot),
    "unet_split": (unet, lambda model: ks.plot(in_stages(model, 2) if ks.split_points(model) else ks.split(model, ["max_pooling2d_1", "conv2d_transpose_1"], allow_crossing=True))),
    "unet_split1": (unet, lambda model: ks.plot(ks.split(model, ["conv2d_9"], allow_crossing=True))),
    "bert": (bert, ks.plot),
    "gpt2": (gpt2, ks.plot),
    "vit": (vit, ks.plot),
    "vit_by_hand": (vit_by_hand, ks.plot),
    "siamese": (siamese, ks.plot),
    "nasnet": (lambda: application("NASNetMobile"), lambda model: ks.plot(in_stages(model, 4))),
    "mobilenet16": (lambda: application("MobileNetV2"), lambda model: ks.plot(in_stages(model, 16))),
    "mlp": (mlp, ks.plot),
    "lstm": (lstm, ks.plot),
    "tickets": (tickets, ks.plot),
    "nested": (nested, ks.plot),
    "autoencoder": (autoencoder, ks.plot),
    "resnet50": (lambda: application("ResNet50"), ks.plot),
    "densenet121": (lambda: application("DenseNet121"), ks.plot),
    "efficientnetv2l": (lambda: application("EfficientNetV2L"), ks.plot),
    "inceptionv3": (lambda: application("InceptionV3"), ks.plot),
    "translation": (translation, ks.plot),
    "shared_embedding": (shared_embedding, ks.plot),
    "plan": (lambda: application("ResNet50"), lambda model: ks.plot(by_plan(model))),
    "crossing": (residual, lambda model: ks.plot(ks.split(model, "first_conv", allow_crossing=True))),
}

if __name__ == "__main__":
    out = Path(sys.argv[1])
    for name in sys.argv[2:] or PICTURES:
        model, drawing = draw(name)
        (out / f"{name}.svg").write_bytes(drawing.render("svg"))
        print("=====", name, len(model.layers))
        print(drawing, flush=True)
