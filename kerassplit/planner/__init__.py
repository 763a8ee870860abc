"""Where to cut, on plain numbers: what comes in are times, sizes and devices, what goes out are stages. No Keras here."""
