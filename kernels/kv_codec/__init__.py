"""How K and V become bytes and come back."""
