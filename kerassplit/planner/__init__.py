"""Where to cut, on plain numbers: in come times, sizes and devices, out go stages. No Keras here."""
