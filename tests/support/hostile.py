"""Names that would run as code in a page that does not escape them."""

import keras

MARK = "window.hurt=1"
NAMES = (
    f"<img src=x onerror={MARK}>",
    f"<svg onload={MARK}>",
    f"<script>{MARK}<",
    f'"><img src=x onerror={MARK}>',
    f"'><img src=x onerror={MARK}>",
    f"' onfocus={MARK} autofocus='",
    f'" onpointerenter="{MARK}',
    f"javascript:{MARK}",
    f"`${{{MARK}}}`",
    f"${{{MARK}}}",
    "{{script}}",
    "<!--<script>",
    "-->",
    "]]>",
    "&lt;b&gt;&amp;",
    "%3Cimg src=x onerror=alert(1)%3E",
    "\\u003c\\",
    "'; $(touch hurt) '",
    "__proto__",
    "\u2028\u202e x",
)


def hostile_model() -> keras.Model:
    """A chain of layers with these names; one inside a nested model closes the script that the data is in."""
    inputs = x = keras.Input((4,), name="<input>")
    for name in NAMES:
        x = keras.layers.Dense(4, name=name)(x)
    inner = keras.Input((4,), name="inner")
    last = keras.layers.Dense(4, name=f"script><img src=x onerror={MARK}>")(inner)
    nest = keras.Model(inner, last, name="<")
    return keras.Model(inputs, keras.layers.Dense(2, name="end")(nest(x)), name=f"<b onclick={MARK}>model<")
