from array import array

def fill(
    seeds: array[int],
    weights: array[int],
    numbers: array[int],
    logarithms: array[int],
    table: array[int],
) -> None: ...
