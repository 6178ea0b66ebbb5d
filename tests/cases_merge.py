"""Rows of the merge layers: two inputs and more, equal shapes and every pattern of broadcasting, one tensor twice."""

from cases import Case
from nnkit.layers.dense import Dense
from nnkit.layers.merge import Add, Average, Concatenate, Dot, Maximum, Minimum, Multiply, Subtract
from nnkit.network import Network
from nnkit.tensors import Input


def merged(id, layer, *shapes, **options):
    """The layer on inputs of these shapes."""
    inputs = [Input(shape) for shape in shapes]
    return Case(id, Network(inputs, layer(inputs)), **options)


def twice(id, layer, shape, **options):
    """The layer on one tensor, given twice."""
    x = Input(shape)
    h = Dense(shape[-1], "tanh")(x)
    return Case(id, Network(x, layer([h, h])), **options)


def between(id, layer, *shapes, **options):
    """The layer on what Dense layers make of its inputs, and below one: gradients pass it."""
    inputs = [Input(shape) for shape in shapes]
    return Case(id, Network(inputs, Dense(2)(layer([Dense(shape[-1], "tanh")(x) for x, shape in zip(inputs, shapes, strict=True)]))), **options)


def elementwise(name, layer):
    """Rows of one layer of two inputs."""
    return [
        merged(name, layer, (7,), (7,), batch=5),
        merged(f"{name}-registers", layer, (83,), (83,), batch=3),
        merged(f"{name}-one", layer, (1,), (1,), batch=1),
        merged(f"{name}-no-axes", layer, (), (), batch=3),
        merged(f"{name}-axes", layer, (2, 1, 3), (2, 1, 3), batch=4),
        merged(f"{name}-empty", layer, (0,), (0,), batch=2),
        merged(f"{name}-broadcast-number", layer, (5,), (), batch=4),
        merged(f"{name}-broadcast-first", layer, (1, 3), (5, 3), batch=2),
        merged(f"{name}-broadcast-both", layer, (5, 1), (4,), batch=3),
        merged(f"{name}-broadcast-alternating", layer, (2, 1, 3, 1), (5, 1, 2), batch=2),
        twice(f"{name}-twice", layer, (5,), batch=4),
        between(f"{name}-between", layer, (2, 4), (3, 1, 4), batch=3),
    ]


def several(name, layer):
    """Rows of one layer of more inputs than two."""
    return [
        *elementwise(name, layer),
        merged(f"{name}-three", layer, (7,), (7,), (7,), batch=5),
        merged(f"{name}-four-broadcast", layer, (), (3, 1), (2,), (2, 1, 1), batch=3),
        between(f"{name}-five-between", layer, *[(3,)] * 5, batch=4),
    ]


CASES = [
    *several("add", Add()),
    *elementwise("subtract", Subtract()),
    *several("multiply", Multiply()),
    *several("average", Average()),
    *several("maximum", Maximum()),
    *several("minimum", Minimum()),
    merged("multiply-broadcast-to-none", Multiply(), (0, 3), (1, 3), batch=2),
    merged("add-broadcast-long", Add(), (71,), (2, 1), batch=3),
    merged("add-broadcast-channels", Add(), (3, 5, 2), (1, 1, 2), batch=4),
    merged("add-broadcast-columns", Add(), (19, 3), (19, 1), batch=4),

    merged("concatenate", Concatenate(), (3,), (5,), batch=4),
    merged("concatenate-three", Concatenate(), (3,), (1,), (7,), batch=4),
    merged("concatenate-registers", Concatenate(), (17,), (70,), (33,), (16,), batch=9),
    merged("concatenate-one-of-each", Concatenate(), (1,), (1,), batch=1),
    merged("concatenate-axis", Concatenate(axis=1), (2, 3), (5, 3), batch=3),
    merged("concatenate-axis-middle", Concatenate(axis=2), (2, 3, 4), (2, 1, 4), (2, 2, 4), batch=3),
    merged("concatenate-axis-from-the-end", Concatenate(axis=-2), (2, 3, 4), (2, 1, 4), batch=2),
    merged("concatenate-inner", Concatenate(-1), (2, 3, 4), (2, 3, 1), batch=2),
    merged("concatenate-nothing", Concatenate(), (0,), (3,), (0,), batch=3),
    merged("concatenate-empty", Concatenate(), (0, 2), (0, 3), batch=2),
    twice("concatenate-twice", Concatenate(), (4,), batch=3),
    between("concatenate-between", Concatenate(axis=1), (2, 4), (3, 4), (1, 4), batch=3),

    merged("dot", Dot(axes=1), (5,), (5,), batch=4),
    merged("dot-registers", Dot(axes=-1), (83,), (83,), batch=3),
    merged("dot-one", Dot(axes=1), (1,), (1,), batch=1),
    merged("dot-none", Dot(axes=1), (0,), (0,), batch=2),
    merged("dot-normalized", Dot(axes=1, normalize=True), (5,), (5,), batch=4),
    merged("dot-rows", Dot(axes=2), (3, 5), (4, 5), batch=3),
    merged("dot-rows-normalized", Dot(axes=(-1, 2), normalize=True), (3, 19), (1, 19), batch=2),
    merged("dot-product", Dot(axes=(2, 1)), (3, 5), (5, 4), batch=3),
    merged("dot-product-normalized", Dot(axes=(2, 1), normalize=True), (3, 5), (5, 4), batch=3),
    merged("dot-product-large", Dot(axes=(2, 1)), (19, 37), (37, 53), batch=2),
    merged("dot-columns", Dot(axes=1), (5, 3), (5, 4), batch=3),
    merged("dot-columns-normalized", Dot(axes=1, normalize=True), (5, 3), (5, 4), batch=2),
    merged("dot-middle", Dot(axes=(2, 2)), (2, 5, 3), (3, 5, 2), batch=2),
    merged("dot-middle-normalized", Dot(axes=2, normalize=True), (2, 5, 3), (3, 5, 2), batch=2),
    merged("dot-vector-and-matrix", Dot(axes=(1, 2)), (5,), (4, 5), batch=3),
    merged("dot-matrix-and-vector", Dot(axes=(1, 1)), (5, 3), (5,), batch=3),
    merged("dot-axis-of-one", Dot(axes=(1, 3)), (1, 3), (2, 4, 1), batch=2),
    merged("dot-no-row", Dot(axes=2), (0, 3), (2, 3), batch=2),
    twice("dot-twice", Dot(axes=1), (4,), batch=3),
    twice("dot-gram", Dot(axes=(1, 1)), (3, 4), batch=2),
    between("dot-between", Dot(axes=2, normalize=True), (3, 4), (2, 4), batch=3),
]
