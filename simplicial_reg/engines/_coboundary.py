"""Implicit persistent cohomology of one cloud in degree 1 (no simplex is ever stored).

Edges are in the total order (length, larger vertex, smaller vertex). Five ideas make it fast:

1. *Lunes.* If some k lies in the lune of (i, j), i.e. both (i, k) and (j, k) precede (i, j), the edge is paired at once with a triangle
   (i, j, k), an apparent pair of zero persistence. Only edges with an empty lune (the relative neighbourhood graph), and of those only
   the ones outside the minimum spanning tree (clearing), are columns: about 1 % of all edges. Nearly all other edges have one of the
   8 nearest neighbours of an end in their lune, so few lunes are searched in full.
2. *Enclosing radius.* Let R = min_i max_j d(i, j), and c the vertex where it is attained. With all edges of length at most R, equal ones
   included, the complex is a cone over c, which has no H1. A longer edge (i, j) has c in its lune. So edges longer than R are neither
   births nor deaths.
3. *Reach.* A column dies no sooner than at its first cofacet. The longest of these, the reach, is known from the search of the lunes, and
   most often no bar dies much later; so only half as many edges again as there are up to the reach are sorted at first. The barcode of
   that part of the filtration is the barcode of the whole if every bar in it dies, since no later edge is a birth. If one does not, some
   three times as many are taken, and then all.
4. *Implicit columns.* A column is a sum of coboundaries of edges. It is held as a heap of (cofacet, edge), each edge standing
   at its first cofacet that is not yet cancelled; an advance is one minimum over k of max(ranks[i, k], ranks[j, k]) above a
   bound. Adding a column merges two heaps.
5. *Apparent triangles are recognised, not stored*: a triangle is the apparent partner of its longest edge if its third vertex
   is the edge's witness, one vertex of its lune, which comes first among the edge's cofacets by definition.
   (The order among triangles with the same longest edge is ours to choose: it changes no birth or death edge.)

From 3 on everything happens on ranks: ``ranks[i, j]`` is the position of the edge (i, j) in the total order, a 32-bit integer, so
there are no ties and no floats below that line. A triangle is coded as ``rank of its longest edge << 17 | apex``, where apex is 0
for the witness and k + 1 for the vertex k; comparing codes compares triangles in filtration order.

Kernels that end in ``first, step`` do every step-th part of their work: threads share them, and the result is the same however many.

References: de Silva, Morozov, Vejdemo-Johansson 2011 (cohomology); Chen, Kerber 2011 (clearing); Bauer 2021, "Ripser" (implicit
coboundaries, apparent pairs); Koyama, Mémoli, Robins, Turner 2023, arXiv 2307.16333 (relative neighbourhood graph).
"""

import numpy as np

from simplicial_reg._jit import kernel

__all__ = [
    "ABSENT",
    "AT_FIRST",
    "NEIGHBOURS",
    "bars",
    "by_larger_end",
    "cuts",
    "deaths",
    "edges_between",
    "empty_lunes",
    "enter",
    "first_cofacets",
    "loops",
    "mark_doubtful",
    "neighbours",
    "panels",
]

ABSENT = np.int32(np.iinfo(np.int32).max)  # rank of an edge that is not in the filtration, and of (v, v)
NO_COFACET = np.int64(np.iinfo(np.int64).max)
NEIGHBOURS = 8  # of each end, tried as witnesses before a lune is searched in full
LANES = 32  # of which the nearest neighbours are taken
PANEL = 64  # columns of a panel: bits of a word
AT_FIRST = 1.5  # times as many edges as there are up to the reach
RADIX_BITS = 13  # at most, for one digit of the sort: 2¹³ counters fit into the first-level cache
APEX_BITS = 17
APEX = (1 << APEX_BITS) - 1


@kernel(inline="always")
def _ends(edge):
    """An edge (i, j) is held as i << 16 | j: shifts are quicker to undo than a product, and this happens at every step."""
    return np.int64(edge >> np.uint32(16)), np.int64(edge & np.uint32(0xFFFF))


@kernel
def loops(keys, tree, limit):
    """The degree-1 bars of positive persistence of one cloud, in order of birth, as (k, 4) birth and death vertices.

    ``keys`` is (n, n), non-negative integers ordered like the lengths; ``tree`` (n - 1, 2) is the minimum spanning tree, larger vertex
    first; edges with keys above ``limit`` are left out. A class that never dies has death vertices -1.
    """
    n = keys.shape[0]
    near = np.empty((n, NEIGHBOURS), np.int32)
    near_key = np.empty((n, NEIGHBOURS), keys.dtype)
    farthest = np.empty(n, keys.dtype)
    neighbours(keys, near, near_key, farthest, 0, 1)
    limit = min(limit, farthest.min())
    start, other = by_larger_end(tree, n)
    doubtful = np.empty((n, panels(n)), np.uint64)
    mark_doubtful(keys, near, near_key, start, other, limit, doubtful, 0, 1)
    column, reach = empty_lunes(keys, near, near_key, doubtful, limit, 0, 1)
    if column.shape[0] == 0:
        return np.empty((0, 4), np.int64)
    ranks = np.empty((n, n), np.int32)
    more = AT_FIRST
    while True:
        cut = cuts(keys, reach, limit, more, 1)
        edge, key = edges_between(keys, cut[0], cut[1])
        ranks[:] = ABSENT
        enter(edge, 0, ranks)
        births = np.empty(column.shape[0], np.int64)
        for a in range(column.shape[0]):
            i, j = _ends(column[a])
            births[a] = ranks[i, j]
        births = np.sort(births)[::-1].copy()
        codes = np.empty(births.shape[0], np.int64)
        witness = np.full(edge.shape[0], -1, np.int32)
        first_cofacets(edge, ranks, near, witness, births, codes, 0, 1)
        found = deaths(edge, ranks, near, witness, births, codes)
        if cut[1] == limit or found.min() >= 0:
            return bars(edge, key, births, found)
        more **= 4  # all of them, if that is not enough either


@kernel
def neighbours(keys, near, near_key, farthest, first, step):
    """Near neighbours of each vertex to ``near`` (n, 8), their keys to ``near_key``, and the greatest key of each row.

    Of the vertices that are equal modulo 32 the nearest one counts, and of these 32 the nearest eight, which is nearly as good as the
    nearest eight of all and needs no branch. Places that are left hold the vertex itself, which is in no lune.
    """
    n = keys.shape[0]
    top = np.iinfo(keys.dtype).max
    key = np.empty(LANES, keys.dtype)
    begin = np.empty(LANES, keys.dtype)
    row = np.empty(n, keys.dtype)
    for i in range(first, n, step):
        row[:] = keys[i]
        farthest[i] = row.max()
        row[i] = top
        key[:] = top
        begin[:] = 0
        for j in range(0, n, LANES):
            _nearer(key, begin, row[j : min(j + LANES, n)], keys.dtype.type(j))
        nearest = near[i]
        nearest_key = near_key[i]
        nearest[:] = i
        nearest_key[:] = top
        for lane in range(LANES):
            if key[lane] >= nearest_key[NEIGHBOURS - 1]:
                continue
            at = NEIGHBOURS - 1
            while at > 0 and nearest_key[at - 1] > key[lane]:
                nearest[at] = nearest[at - 1]
                nearest_key[at] = nearest_key[at - 1]
                at -= 1
            nearest[at] = begin[lane] + lane
            nearest_key[at] = key[lane]


@kernel
def _nearer(key, begin, row, start):
    """Keep the lesser key in every lane, and where its block of the row starts."""
    for lane in range(row.shape[0]):
        begin[lane] = start if row[lane] < key[lane] else begin[lane]
        key[lane] = min(key[lane], row[lane])


@kernel
def by_larger_end(tree, n):
    """The smaller ends of the tree's edges, sorted by the larger end: those of i are ``other[start[i] : start[i + 1]]``."""
    start = np.zeros(n + 1, np.int64)
    for a in range(tree.shape[0]):
        start[tree[a, 0] + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    other = np.empty(tree.shape[0], np.int64)
    at = start.copy()
    for a in range(tree.shape[0]):
        other[at[tree[a, 0]]] = tree[a, 1]
        at[tree[a, 0]] += 1
    return start, other


@kernel
def panels(n):
    """The number of panels of 64 columns."""
    return (n + PANEL - 1) // PANEL


@kernel
def mark_doubtful(keys, near, near_key, start, other, limit, doubtful, first, step):
    """Set bit j % 64 of ``doubtful[i, j // 64]``, i > j, if the lune of (i, j) may be empty, and clear it otherwise.

    Cleared are the bits of edges with keys above ``limit``, of those of the tree, which are no columns, and of those with one of the near
    neighbours of i in the lune: edges to both ends that are shorter. It goes by panels of 64 columns, copied together, so that the
    rows of the neighbours come out of the second-level cache.
    """
    n = keys.shape[0]
    panel = np.empty((n, PANEL), keys.dtype)
    lowest = np.empty(PANEL, keys.dtype)
    for place in range(first, doubtful.shape[1], step):
        begin = place * PANEL
        for k in range(n):
            _copy(panel[k], keys[k, begin : min(begin + PANEL, n)])
        for i in range(begin + 1, n):
            width = min(PANEL, i - begin)
            low = lowest[:width]
            low[:] = limit
            for t in range(0, NEIGHBOURS, 4):
                k0, k1, k2, k3 = near[i, t], near[i, t + 1], near[i, t + 2], near[i, t + 3]
                e0, e1, e2, e3 = near_key[i, t], near_key[i, t + 1], near_key[i, t + 2], near_key[i, t + 3]
                _lower(low, panel[k0], panel[k1], panel[k2], panel[k3], e0, e1, e2, e3)
            for a in range(start[i], start[i + 1]):
                if begin <= other[a] < begin + width:
                    low[other[a] - begin] = -1
            doubtful[i, place] = _not_below(low, panel[i])


@kernel
def _copy(target, source):
    for j in range(source.shape[0]):
        target[j] = source[j]


@kernel
def _lower(lowest, row0, row1, row2, row3, key0, key1, key2, key3):
    """Lower each entry to the key of the longer of the two edges to one of four vertices."""
    for j in range(lowest.shape[0]):
        m01 = min(max(key0, row0[j]), max(key1, row1[j]))
        m23 = min(max(key2, row2[j]), max(key3, row3[j]))
        lowest[j] = min(lowest[j], min(m01, m23))


@kernel
def _not_below(lowest, row):
    """The bits of the places with lowest >= row."""
    count = 0
    for j in range(lowest.shape[0]):
        count += 1 if lowest[j] >= row[j] else 0
    word = np.uint64(0)
    if count > 0:
        for j in range(lowest.shape[0]):
            if lowest[j] >= row[j]:
                word |= np.uint64(1) << np.uint64(j)
    return word


@kernel
def empty_lunes(keys, near, near_key, doubtful, limit, first, step):
    """The edges (i > j), of those marked, with an empty lune, and the reach: the longest of their first cofacets, at most ``limit``."""
    one = (limit & 0) + 1
    n = keys.shape[0]
    found = np.empty(64, np.uint32)
    count = 0
    reach = limit & 0
    for i in range(first, n, step):
        for place in range(panels(i)):
            word = doubtful[i, place]
            j = place * PANEL
            while word != 0:
                if word & np.uint64(1):
                    cofacet = _first_in_lune(keys, near[j], near_key[j], i, j)
                    if cofacet >= keys[i, j]:
                        if count == found.shape[0]:
                            found = _grown(found)
                        found[count] = i << 16 | j
                        count += 1
                        reach = max(reach, cofacet + one)
                word >>= np.uint64(1)
                j += 1
    return found[:count].copy(), min(reach, limit)


@kernel
def _first_in_lune(keys, nearest, nearest_key, i, j):
    """A key that is less than that of (i > j) if some vertex is in its lune; otherwise that of its first cofacet, or 1 less.

    Ties are settled by the vertices: (i, k) precedes an equally long (i, j) if k < j, and (j, k) does if k < i. As keys are integers,
    it is enough to take 1 off them there: one minimum of maxima, and no branch.
    """
    row_i, row_j = keys[i], keys[j]
    key = row_i[j]
    zero, one = key & 0, (key & 0) + 1
    for t in range(NEIGHBOURS):
        k = nearest[t]
        cofacet = max(row_i[k] - (one if k < j else zero), nearest_key[t] - (one if k < i else zero))
        if cofacet < key:
            return cofacet
    cofacet = _least(row_i[:j], row_j[:j], one, one)
    cofacet = min(cofacet, _least(row_i[j + 1 : i], row_j[j + 1 : i], zero, one))
    return min(cofacet, _least(row_i[i + 1 :], row_j[i + 1 :], zero, zero))


@kernel
def _least(row_i, row_j, back_i, back_j):
    least = np.iinfo(row_i.dtype).max + (back_i & 0)
    for k in range(row_i.shape[0]):
        least = min(least, max(row_i[k] - back_i, row_j[k] - back_j))
    return least


@kernel
def cuts(keys, reach, limit, more, parts):
    """Keys that bound ``parts`` parts of the shortest edges, of about equal size; the first is -1, the last ``limit`` at most.

    They hold every edge with key up to ``reach``, in all about ``more`` times as many, as told by a sample of the lengths.
    """
    n = keys.shape[0]
    size = max(min(n * n // 256, 4096), 16)
    sample = np.empty(size, keys.dtype)
    for a in range(size):
        place = np.int64((a * 0.6180339887498949) % 1.0 * n * n)  # spread evenly, whatever order the points are in
        sample[a] = keys[place // n, place % n]
    sample.sort()
    wanted = np.int64(np.searchsorted(sample, reach, "right") * more) + 8
    cut = np.empty(parts + 1, keys.dtype)
    cut[0] = -1
    cut[parts] = limit
    if wanted < size:
        cut[parts] = min(max(reach, sample[wanted]), limit)
    held = np.searchsorted(sample, cut[parts], "right")
    for part in range(1, parts):
        cut[part] = min(sample[held * part // parts], cut[parts])
    return cut


@kernel
def edges_between(keys, low, high):
    """The edges (i > j) with low < key <= high, as i << 16 | j, and their keys, sorted by (key, i, j): a stable radix sort."""
    n = keys.shape[0]
    count = 0
    for i in range(n):
        row = keys[i]
        for j in range(i):
            count += 1 if low < row[j] and row[j] <= high else 0
    key = np.empty(count + 1, keys.dtype)
    edge = np.empty(count + 1, np.uint32)
    at = 0
    for i in range(n):
        row = keys[i]
        for j in range(i):
            key[at] = row[j]
            edge[at] = i << 16 | j
            at += (
                1 if low < row[j] and row[j] <= high else 0
            )  # what is not kept is overwritten, which is quicker than a branch
    key = key[:count]
    edge = edge[:count]
    smallest = high
    for a in range(count):
        smallest = min(smallest, key[a])
    other_key = np.empty_like(key)
    other_edge = np.empty_like(edge)
    spread = _bit_length(high - smallest)  # differences from the smallest have fewer bits to sort by
    widest = min(RADIX_BITS, max(8, _bit_length(count)))
    passes = (spread + widest - 1) // widest
    width = (spread + passes - 1) // max(passes, 1)
    mask = np.uint64((1 << width) - 1)
    for digit in range(passes):
        shift = np.uint64(digit * width)
        start = np.zeros((1 << width) + 1, np.uint32)
        for a in range(count):
            start[(np.uint64(key[a] - smallest) >> shift & mask) + np.uint64(1)] += np.uint32(1)
        for bucket in range(1 << width):
            start[bucket + 1] += start[bucket]
        for a in range(count):
            bucket = np.uint64(key[a] - smallest) >> shift & mask
            place = start[bucket]
            other_key[place] = key[a]
            other_edge[place] = edge[a]
            start[bucket] = place + np.uint32(1)
        key, other_key = other_key, key
        edge, other_edge = other_edge, edge
    return edge, key


@kernel
def _bit_length(number):
    length = 0
    while number > 0:
        number >>= 1
        length += 1
    return length


@kernel
def enter(edge, rank, ranks):
    """Write the ranks of edges in order, of which the first has this one."""
    for a in range(edge.shape[0]):
        i, j = _ends(edge[a])
        ranks[i, j] = rank + a
        ranks[j, i] = rank + a


@kernel
def first_cofacets(edge, ranks, near, witness, births, codes, first, step):
    """The code of the first cofacet of each column; none is in its lune, which is empty."""
    for a in range(first, births.shape[0], step):
        codes[a] = _longer_cofacet(edge, ranks, near, witness, births[a], births[a])


@kernel
def _longer_cofacet(edge, ranks, near, witness, e, bound):
    """Code of the first cofacet of the edge ``e`` whose longest edge comes after ``bound``."""
    i, j = _ends(edge[e])
    longest = _least_above(ranks[i], ranks[j], np.int32(bound))
    if longest == ABSENT:
        return NO_COFACET
    a, b = _ends(edge[longest])
    opposite = j if a == i or b == i else i
    w = _witness(ranks, near, witness, a, b, longest)
    return (np.int64(longest) << APEX_BITS) + (0 if w == opposite else opposite + 1)


@kernel
def _least_above(row_i, row_j, bound):
    longest = ABSENT
    for k in range(row_i.shape[0]):
        m = max(row_i[k], row_j[k])
        longest = min(longest, m if m > bound else ABSENT)
    return longest


@kernel(inline="always")
def _witness(ranks, near, witness, i, j, rank):
    """A vertex in the lune of an edge that has one: ``witness`` remembers it, -1 until it has been looked for."""
    w = witness[rank]
    if w < 0:
        w = _any_in_lune(ranks, near, i, j, rank)
        witness[rank] = w
    return w


@kernel
def _any_in_lune(ranks, near, i, j, rank):
    row_i = ranks[i]
    row_j = ranks[j]
    for t in range(NEIGHBOURS):
        k = near[i, t]
        if max(row_i[k], row_j[k]) < rank:
            return k
    for t in range(NEIGHBOURS):
        k = near[j, t]
        if max(row_i[k], row_j[k]) < rank:
            return k
    return _in_lune(ranks, i, j, rank, 0)


@kernel
def _in_lune(ranks, i, j, rank, start):
    """The first vertex >= start in the lune of the edge (i, j) of the given rank, or -1.

    A lune is mostly full or empty: a few single steps find a vertex of a full one, one vectorised minimum proves an empty one.
    """
    row_i = ranks[i, start:]  # slices, so that the loops below count from 0 and vectorise
    row_j = ranks[j, start:]
    soon = min(16, row_i.shape[0])
    for k in range(soon):
        if max(row_i[k], row_j[k]) < rank:
            return np.int32(start + k)
    lowest = ABSENT
    for k in range(row_i.shape[0]):
        lowest = min(lowest, max(row_i[k], row_j[k]))
    if lowest < rank:
        for k in range(soon, row_i.shape[0]):
            if max(row_i[k], row_j[k]) < rank:
                return np.int32(start + k)
    return np.int32(-1)


@kernel
def _next_cofacet(edge, ranks, near, witness, e, code):
    """Code of the first cofacet of the edge ``e`` after ``code``, which is one of its cofacets, or another edge's that comes later."""
    bound = code >> APEX_BITS
    if bound == e:  # the cofacets inside the lune come first: the witness, then the others by index
        i, j = _ends(edge[e])
        w = _witness(ranks, near, witness, i, j, e)
        k = _in_lune(ranks, i, j, e, code & APEX)
        if k == w:
            k = _in_lune(ranks, i, j, e, k + 1)
        if k >= 0:
            return (np.int64(e) << APEX_BITS) + k + 1
    return _longer_cofacet(edge, ranks, near, witness, e, bound)


@kernel
def deaths(edge, ranks, near, witness, births, codes):
    """The ranks of the death edges of all columns; -1 for a class that never dies.

    ``births`` are the ranks of the columns, from the last to the first, and ``codes`` those of their first cofacets.
    """
    columns = births.shape[0]
    found = np.full(columns, -1, np.int64)

    # pivot -> column, by open addressing
    slots = 16
    while slots < 4 * columns:
        slots *= 2
    slot_pivot = np.full(slots, -1, np.int64)
    slot_column = np.empty(slots, np.int64)

    # the reduced columns, one after another
    first = np.zeros(columns + 1, np.int64)
    kept_code = np.empty(4 * columns + 16, np.int64)
    kept_edge = np.empty(4 * columns + 16, np.int32)

    heap_code = np.empty(64, np.int64)
    heap_edge = np.empty(64, np.int32)
    here = np.empty(64, np.int32)  # the edges that stand at the pivot
    odd = np.zeros(edge.shape[0], np.bool_)

    for column in range(columns):
        heap_code[0] = codes[column]
        heap_edge[0] = births[column]
        size = 0 if codes[column] == NO_COFACET else 1
        while size > 0:
            pivot = heap_code[0]
            standing = 0
            while size > 0 and heap_code[0] == pivot:
                if standing == here.shape[0]:
                    here = _grown(here)
                here[standing] = heap_edge[0]
                standing += 1
                size = _pop(heap_code, heap_edge, size)
            standing = _cancel(here, standing, odd)
            if standing % 2 == 1:  # the pivot survives: add the column that owns it, or become its owner
                slot = _slot(slot_pivot, pivot)
                if pivot & APEX == 0:
                    if standing == here.shape[0]:
                        here = _grown(here)
                    here[standing] = pivot >> APEX_BITS
                    standing = _cancel(here, standing + 1, odd)
                elif slot_pivot[slot] == pivot:
                    owner = slot_column[slot]
                    for a in range(first[owner], first[owner + 1]):
                        if kept_code[a] == pivot:
                            if standing == here.shape[0]:
                                here = _grown(here)
                            here[standing] = kept_edge[a]
                            standing += 1
                        else:
                            if size == heap_code.shape[0]:
                                size = _without_pairs(heap_code, heap_edge, size, odd)
                                if size > heap_code.shape[0] // 2:
                                    heap_code = _grown(heap_code)
                                    heap_edge = _grown(heap_edge)
                            size = _push(heap_code, heap_edge, size, kept_code[a], kept_edge[a])
                    standing = _cancel(here, standing, odd)
                else:
                    slot_pivot[slot] = pivot
                    slot_column[slot] = column
                    found[column] = pivot >> APEX_BITS
                    size = _without_pairs(heap_code, heap_edge, size, odd)
                    stop = first[column]
                    while stop + standing + size > kept_code.shape[0]:
                        kept_code = _grown(kept_code)
                        kept_edge = _grown(kept_edge)
                    for a in range(standing):
                        kept_code[stop] = pivot
                        kept_edge[stop] = here[a]
                        stop += 1
                    for a in range(size):
                        kept_code[stop] = heap_code[a]
                        kept_edge[stop] = heap_edge[a]
                        stop += 1
                    first[column + 1] = stop
                    break
            for a in range(standing):
                code = _next_cofacet(edge, ranks, near, witness, here[a], pivot)
                if code != NO_COFACET:
                    if size == heap_code.shape[0]:
                        size = _without_pairs(heap_code, heap_edge, size, odd)
                        if size > heap_code.shape[0] // 2:
                            heap_code = _grown(heap_code)
                            heap_edge = _grown(heap_edge)
                    size = _push(heap_code, heap_edge, size, code, here[a])
        if found[column] < 0:
            first[column + 1] = first[column]
    return found


@kernel
def _without_pairs(heap_code, heap_edge, size, odd):
    """Drop edges that are in the heap an even number of times, and all but one copy of the others; returns the new size.

    All copies of an edge stand at the same cofacet, its first one that is not before the pivot, so they cancel in Z/2.
    """
    for a in range(size):
        odd[heap_edge[a]] = not odd[heap_edge[a]]
    kept = 0
    for a in range(size):
        if odd[heap_edge[a]]:
            odd[heap_edge[a]] = False
            kept = _push(heap_code, heap_edge, kept, heap_code[a], heap_edge[a])
    return kept


@kernel
def _cancel(here, standing, odd):
    """Keep one copy of the edges that stand at the pivot an odd number of times (coefficients are in Z/2)."""
    for a in range(standing):
        odd[here[a]] = not odd[here[a]]
    kept = 0
    for a in range(standing):
        if odd[here[a]]:
            odd[here[a]] = False
            here[kept] = here[a]
            kept += 1
    return kept


@kernel
def _slot(slot_pivot, pivot):
    """Where ``pivot`` is, or where it would go."""
    mask = slot_pivot.shape[0] - 1
    slot = (pivot * 0x9E3779B97F4A7C1 >> 20) & mask
    while slot_pivot[slot] != -1 and slot_pivot[slot] != pivot:
        slot = (slot + 1) & mask
    return slot


@kernel
def _grown(array):
    larger = np.empty(2 * array.shape[0], array.dtype)
    larger[: array.shape[0]] = array
    return larger


@kernel
def _push(heap_code, heap_edge, size, code, e):
    at = size
    while at > 0 and heap_code[(at - 1) >> 1] > code:
        heap_code[at] = heap_code[(at - 1) >> 1]
        heap_edge[at] = heap_edge[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap_code[at] = code
    heap_edge[at] = e
    return size + 1


@kernel
def _pop(heap_code, heap_edge, size):
    size -= 1
    code = heap_code[size]
    e = heap_edge[size]
    at = 0
    child = 1
    while child < size:
        if child + 1 < size and heap_code[child + 1] < heap_code[child]:
            child += 1
        if heap_code[child] >= code:
            break
        heap_code[at] = heap_code[child]
        heap_edge[at] = heap_edge[child]
        at = child
        child = 2 * at + 1
    heap_code[at] = code
    heap_edge[at] = e
    return size


@kernel
def bars(edge, key, births, found):
    """The bars of positive persistence in order of birth, as (k, 4) birth and death vertices.

    ``edge`` and ``key`` are in order; ``births``, from the last to the first, and ``found`` are the ranks of birth and death edges.
    """
    rows = np.empty((births.shape[0], 4), np.int64)
    count = 0
    for a in range(births.shape[0] - 1, -1, -1):
        i, j = _ends(edge[births[a]])
        u = v = np.int64(-1)
        if found[a] >= 0:
            u, v = _ends(edge[found[a]])
        if u < 0 or key[births[a]] < key[found[a]]:
            rows[count, 0] = i
            rows[count, 1] = j
            rows[count, 2] = u
            rows[count, 3] = v
            count += 1
    return rows[:count].copy()
