"""Redraws the gallery, page and pictures: `python docs/pictures/gallery.py`.

The KerasHub models need `pip install keras-hub`. Weights are random, since pictures do not show them.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras import layers

import kerassplit as ks
from kerassplit.pictures import Drawing

FOLDER = Path(__file__).resolve().parent / "gallery"
PAGE = Path(__file__).resolve().parent / "gallery.md"
MANY = 30  # layers: a box with this many is named
HEAD = """# Gallery

Pictures of typical models, as `ks.plot` draws them. Above each, the text says what the model is and what the picture
leaves out. Boxes are in execution order. A double border marks several similar blocks in a row (`×12`), a red dot a
place where the model can be cut, a thick red line a cut. "Shared" marks a layer that the model calls more than once:
its weights count once.

Weights are random. Run `python docs/pictures/gallery.py` to redraw it.
"""


def application(name: str) -> keras.Model:
    return getattr(keras.applications, name)(weights=None)


def unet() -> keras.Model:
    """Four levels down and four up, with layers named by Keras."""
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
        image_shape=(224, 224, 3), patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072, name="vit"
    )


def vit_by_hand() -> keras.Model:
    """Like the example on keras.io: attention and perceptron in each block, named by Keras."""
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
    """The model with several inputs and outputs from the guide to the functional API."""
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
    """An encoder and a decoder with two blocks each; the decoder attends to the encoder's output."""
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
    """Cuts the model into `count` stages at evenly spaced split points."""
    names = [point.name for point in ks.split_points(model)]
    return ks.split(model, [names[len(names) * place // count] for place in range(1, count)])


def by_cells(model: keras.Model) -> ks.Split:
    """Cuts NASNetMobile where the size of its images changes, which takes two tensors each time."""
    cuts = [
        ["reduction_concat_stem_1", "reduction_concat_stem_2"],
        ["normal_concat_3", "reduction_concat_reduce_4"],
        ["normal_concat_8", "reduction_concat_reduce_8"],
    ]
    return ks.split(model, cuts)


def by_plan(model: keras.Model) -> ks.Split:
    boards = ks.Device("board", "10 GFLOPS", memory="64 MiB", count=4)
    return ks.split(model, ks.plan(model, boards, links=ks.Link("200 Mbit/s")))


@dataclass(frozen=True)
class Exhibit:
    """A picture in the gallery.

    Attributes:
        title: Heading of its section.
        about: Description of the model.
        build: Builds the model.
        cut: Cuts the model; `None` to draw the model itself.
    """

    title: str
    about: str
    build: Callable[[], keras.Model]
    cut: Callable[[keras.Model], ks.Split] | None = None

    def draw(self) -> Drawing:
        """Draws the picture, with layers named as in a new process."""
        keras.utils.clear_session()
        model = self.build()
        return ks.plot(model if self.cut is None else self.cut(model))


EXHIBITS = {
    "unet": Exhibit(
        "U-Net",
        "Four levels down and four up; the output of each level down is concatenated to the level up of the same size. "
        "All layers have the names that Keras gave them.",
        unet,
    ),
    "unet_split": Exhibit(
        "U-Net, cut at its lowest level",
        "The same U-Net, cut into an encoder and a decoder: five tensors cross.",
        unet,
        lambda model: ks.split(model, "conv2d_9", allow_crossing=True, names=["encoder", "decoder"]),
    ),
    "bert": Exhibit(
        "BERT",
        "`BertBackbone` from KerasHub in the size of BERT-base: embeddings of tokens, segments and positions, twelve "
        "transformer layers that all use the padding mask, and a pooled output besides the one for each token.",
        bert,
    ),
    "gpt2": Exhibit(
        "GPT-2",
        "`GPT2Backbone` from KerasHub in its smallest size: embeddings, twelve decoder layers, a normalization.",
        gpt2,
    ),
    "vit": Exhibit(
        "ViT from KerasHub",
        "`ViTBackbone` in the size of ViT-B/16. Its twelve transformer layers are inside one layer, `vit_encoder`, for "
        "which Keras records no graph: it is one box, and cannot be cut inside.",
        vit,
    ),
    "vit_by_hand": Exhibit(
        "ViT in plain Keras",
        "Eight transformer layers, each with attention and a perceptron, both followed by an addition; named by Keras.",
        vit_by_hand,
    ),
    "siamese": Exhibit(
        "A Siamese network",
        "One tower, called on the left and on the right image, and the distance between the results.",
        siamese,
    ),
    "nasnetmobile": Exhibit(
        "NASNetMobile in four stages",
        "The stem, then the cells for images of 28×28, 14×14 and 7×7 pixels. Each cell takes the outputs of the two "
        "cells before it, so two tensors cross each cut, as `ks.crossings` finds them. The layers that begin with "
        "`adjust` bring the older of the two outputs to the size of the newer.",
        lambda: application("NASNetMobile"),
        by_cells,
    ),
    "mobilenetv2": Exhibit(
        "MobileNetV2 in sixteen stages",
        "Seventeen inverted residual blocks, cut at about every fifth split point; some cuts are inside blocks.",
        lambda: application("MobileNetV2"),
        lambda model: in_stages(model, 16),
    ),
    "mlp": Exhibit("A multilayer perceptron", "Three dense layers with dropout in between, as a `Sequential`.", mlp),
    "lstm": Exhibit(
        "Two bidirectional LSTMs",
        "Any number of words; their mask is computed from the words by its own operation and passed to both LSTMs.",
        lstm,
    ),
    "tickets": Exhibit(
        "Several inputs and outputs",
        "Predicts the priority and department of a ticket from its title, body and tags.",
        tickets,
    ),
    "nested": Exhibit(
        "A model inside a model",
        "Transfer learning: a whole MobileNetV2 is one layer of this model. The picture shows what is inside, since it "
        "can be cut there.",
        nested,
    ),
    "autoencoder": Exhibit(
        "An autoencoder", "Two convolutions down to a code of sixteen numbers, two transposed ones up.", autoencoder
    ),
    "resnet50": Exhibit(
        "ResNet50",
        "Sixteen residual blocks, in four groups of 3, 4, 6 and 3.",
        lambda: application("ResNet50"),
    ),
    "densenet121": Exhibit(
        "DenseNet121",
        "58 dense blocks, in four groups of 6, 12, 24 and 16, with a transition after each of the first three.",
        lambda: application("DenseNet121"),
    ),
    "efficientnetv2l": Exhibit(
        "EfficientNetV2L",
        "79 inverted residual blocks in seven groups.",
        lambda: application("EfficientNetV2L"),
    ),
    "inceptionv3": Exhibit(
        "InceptionV3",
        "Eleven blocks of parallel branches, `mixed0` to `mixed10`; `mixed3` and `mixed8` downsample.",
        lambda: application("InceptionV3"),
    ),
    "translation": Exhibit(
        "Encoder and decoder with attention",
        "Two encoder blocks and two decoder blocks; each decoder block also attends to the encoder's output.",
        translation,
    ),
    "shared_embedding": Exhibit(
        "A shared embedding",
        "Question and answer go through one `Embedding` and one pooling, then each through its own dense layer.",
        shared_embedding,
    ),
    "plan": Exhibit(
        "A plan",
        "ResNet50, cut by `ks.plan` for four boards with 10 GFLOPS each and a network with 200 Mbit/s.",
        lambda: application("ResNet50"),
        by_plan,
    ),
    "crossing": Exhibit(
        "A cut inside a branch",
        "A residual network, cut inside its first block: the shortcut crosses too.",
        residual,
        lambda model: ks.split(model, "first_conv", allow_crossing=True),
    ),
}


def section(name: str, drawing: Drawing) -> str:
    """Returns the section of the page for an exhibit."""
    exhibit = EXHIBITS[name]
    boxes = [box for cluster in drawing.picture.clusters for box in cluster.boxes if not box.is_input]
    folded = [f"`{box.name}` for {box.count} blocks in a row" for box in boxes if box.count > 1]
    counts = [(box.name, int(found[1])) for box in boxes if box.count == 1 for line in box.lines
              if (found := re.match(r"(\d+) layers", line))]  # fmt: skip
    many = [f"`{name}` holds {count} layers" for name, count in counts if count >= MANY]
    lines = [f"## {exhibit.title}", "", exhibit.about, "", f"- {drawing.picture.subtitle}"]
    if folded:
        lines.append(f"- Folded: {', '.join(folded)}.")
    if counts:
        lines.append(f"- {len(counts)} of {len(boxes)} boxes hold several layers that are not a run of similar blocks.")
    if many:
        lines.append(f"- {', '.join(many)}.")
    if not folded and not counts:
        lines.append("- Nothing is folded.")
    return "\n".join([*lines, "", f"![{exhibit.title}](gallery/{name}.svg)", ""])


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    sections = []
    for name, exhibit in EXHIBITS.items():
        drawing = exhibit.draw()
        (FOLDER / f"{name}.svg").write_bytes(drawing.render("svg"))
        sections.append(section(name, drawing))
    PAGE.write_text("\n".join([HEAD, *sections]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
