"""References of neighbour sampling and negative pairs, number by number. Rows are lists of (column, weight), as a graph's entries stand."""

from naive_dropout import draw_words

NEIGHBORS, NEGATIVES = 2**32 - 1, 2**32 - 2


def choose(degree, fan_out, words):
    """Floyd's algorithm: fan_out distinct places below degree."""
    places = []
    for k in range(fan_out):
        top = degree - fan_out + k
        t = words[k] * (top + 1) >> 32
        places.append(top if t in places else t)
    return places


def sample(rows, seeds, fan_outs, seed, step, replace=False):
    """(nodes in the order in which they are reached, {(row, column): weight, as often as it was drawn} in their numbers)."""
    nodes, edges = list(seeds), {}
    begin = 0
    for fan_out in fan_outs:
        end = len(nodes)
        for i in range(begin, end):
            own = rows[nodes[i]]
            places = range(len(own))
            if own and fan_out >= 0 and (replace or fan_out < len(own)):
                words = [word for block in range((fan_out + 3) // 4) for word in draw_words(seed, NEIGHBORS, i, block, step, seed >> 32)]
                places = [word * len(own) >> 32 for word in words[:fan_out]] if replace else choose(len(own), fan_out, words)
            for place in places:
                column, weight = own[place]
                if column not in nodes:
                    nodes.append(column)
                edge = (i, nodes.index(column))
                edges[edge] = edges.get(edge, 0) + weight
        begin = end
    return nodes, edges


def negatives(edges, V, count, seed, step):
    """Pairs that are in no set of (source, target), drawn until they are not."""
    found = []
    for p in range(count):
        k, pairs = 0, []
        while not pairs:
            w = draw_words(seed, NEGATIVES, p, k, step, seed >> 32)
            drawn = [(w[0] * V >> 32, w[1] * V >> 32), (w[2] * V >> 32, w[3] * V >> 32)]
            pairs = [pair for pair in drawn if pair[0] != pair[1] and pair not in edges]
            k += 1
        found.append(pairs[0])
    return found
