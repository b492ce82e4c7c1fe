"""Implicit persistent cohomology of one cloud in degree 1 (no simplex is ever stored).

Everything happens on ranks: ``ranks[i, j]`` is the position of the edge (i, j) in the total order (length, larger vertex,
smaller vertex), a 32-bit integer, so there are no ties and no floats below this line. Three ideas make it fast:

1. *Relative neighbourhood graph.* If some k lies in the lune of (i, j), i.e. both (i, k) and (j, k) precede (i, j), the edge
   is paired at once with the triangle (i, j, k), an apparent pair of zero persistence. Only edges with an empty lune, and
   of those only the ones outside the minimum spanning tree (clearing), are columns: about 1 % of all edges.
2. *Implicit columns.* A column is a sum of coboundaries of edges. It is held as a heap of (cofacet, edge), each edge standing
   at its first cofacet that is not yet cancelled; an advance is one minimum over k of max(ranks[i, k], ranks[j, k]) above a
   bound. Adding a column merges two heaps.
3. *Apparent triangles are recognised, not stored*: a triangle is the apparent partner of its longest edge if its third vertex
   is the edge's ``witness``, the one lune vertex that was found first and comes first among the edge's cofacets by definition.
   (The order among triangles with the same longest edge is ours to choose: it changes no birth or death edge.)

A triangle is coded as ``rank of its longest edge << 17 | apex``, where apex is 0 for the witness and k + 1 for the vertex k;
comparing codes compares triangles in filtration order.

References: de Silva, Morozov, Vejdemo-Johansson 2011 (cohomology); Chen, Kerber 2011 (clearing); Bauer 2021, "Ripser" (implicit
coboundaries, apparent pairs); Koyama, Mémoli, Robins, Turner 2023, arXiv 2307.16333 (relative neighbourhood graph).
"""

import numpy as np

from simplicial_reg._jit import kernel

__all__ = ["loops"]

ABSENT = np.int32(np.iinfo(np.int32).max)  # rank of an edge that is not in the filtration, and of (v, v)
NO_COFACET = np.int64(np.iinfo(np.int64).max)
NEIGHBOURS = 8  # nearest neighbours tried as witnesses before a lune is searched in full
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

    ``keys`` is (n, n), non-negative integers ordered like the lengths; ``tree`` (n - 1, 2) is the minimum spanning tree;
    edges with keys above ``limit`` are left out. A class that never dies has death vertices -1.
    """
    n = keys.shape[0]
    edge = _edges_in_order(keys, limit)
    ranks = _rank_matrix(n, edge)
    witness = _witnesses(n, edge, ranks)
    in_tree = np.zeros(edge.shape[0], np.bool_)
    for a in range(tree.shape[0]):
        rank = ranks[tree[a, 0], tree[a, 1]]
        if rank != ABSENT:
            in_tree[rank] = True
    births, deaths = _reduce(n, edge, ranks, witness, in_tree)
    bars = np.empty((births.shape[0], 4), np.int64)
    count = 0
    for a in range(births.shape[0] - 1, -1, -1):  # columns were reduced from the last birth to the first
        i, j = _ends(edge[births[a]])
        u = v = np.int64(-1)
        if deaths[a] >= 0:
            u, v = _ends(edge[deaths[a]])
        if u < 0 or keys[i, j] < keys[u, v]:
            bars[count, 0] = i
            bars[count, 1] = j
            bars[count, 2] = u
            bars[count, 3] = v
            count += 1
    return bars[:count].copy()


@kernel
def _edges_in_order(keys, limit):
    """The edges (i > j) with key at most ``limit``, as i << 16 | j, sorted by (key, i, j): a stable radix sort.

    ``keys`` is (n, n), non-negative integers ordered like the lengths. Edges no cofacet of the cone over the most central
    vertex could need, those longer than the enclosing radius, are left out as well.
    """
    n = keys.shape[0]
    enclosing = limit
    for i in range(n):
        eccentricity = keys[i, 0]
        for j in range(n):
            eccentricity = max(eccentricity, keys[i, j])
        enclosing = min(enclosing, eccentricity)
    count = 0
    smallest = enclosing
    largest = enclosing & 0
    for i in range(n):
        row = keys[i]
        for j in range(i):
            kept = row[j] <= enclosing
            count += 1 if kept else 0
            smallest = min(smallest, row[j])
            largest = max(largest, row[j] if kept else largest)
    key = np.empty(count, keys.dtype)  # less the smallest: fewer bits to sort by
    edge = np.empty(count, np.uint32)
    at = 0
    for i in range(n):
        row = keys[i]
        for j in range(i):
            if row[j] <= enclosing:
                key[at] = row[j] - smallest
                edge[at] = i << 16 | j
                at += 1
    other_key = np.empty_like(key)
    other_edge = np.empty_like(edge)
    spread = _bit_length(largest - smallest)
    widest = min(RADIX_BITS, max(8, _bit_length(count)))
    passes = (spread + widest - 1) // widest
    width = (spread + passes - 1) // max(passes, 1)
    mask = np.uint64((1 << width) - 1)
    for digit in range(passes):
        shift = np.uint64(digit * width)
        start = np.zeros((1 << width) + 1, np.uint32)
        for a in range(count):
            start[(np.uint64(key[a]) >> shift & mask) + np.uint64(1)] += np.uint32(1)
        for bucket in range(1 << width):
            start[bucket + 1] += start[bucket]
        for a in range(count):
            bucket = np.uint64(key[a]) >> shift & mask
            place = start[bucket]
            other_key[place] = key[a]
            other_edge[place] = edge[a]
            start[bucket] = place + np.uint32(1)
        key, other_key = other_key, key
        edge, other_edge = other_edge, edge
    return edge


@kernel
def _bit_length(number):
    length = 0
    while number > 0:
        number >>= 1
        length += 1
    return length


@kernel
def _rank_matrix(n, edge):
    ranks = np.full((n, n), ABSENT, np.int32)
    for rank in range(edge.shape[0]):
        i, j = _ends(edge[rank])
        ranks[i, j] = rank
        ranks[j, i] = rank
    return ranks


@kernel
def _witnesses(n, edge, ranks):
    """For each edge a vertex in its lune, or -1 if the lune is empty.

    A near neighbour of one end is about as likely as not to lie in the lune, so trying the nearest 8 of the larger vertex, four at a
    time and without a branch, settles nearly all edges; then those of the smaller one; the few that are left are searched in full.
    """
    near = _nearest_neighbours(n, edge)
    witness = np.empty(edge.shape[0], np.int32)
    found = np.empty(n, np.int32)
    for i in range(n):
        row = ranks[i]
        found[:] = -1
        for t in range(0, NEIGHBOURS, 4):
            k0, k1, k2, k3 = near[i, t], near[i, t + 1], near[i, t + 2], near[i, t + 3]
            r0, r1, r2, r3 = row[k0], row[k1], row[k2], row[k3]
            row0, row1, row2, row3 = ranks[k0], ranks[k1], ranks[k2], ranks[k3]
            for j in range(i):
                rank = row[j]
                w = found[j]
                w = k0 if max(r0, row0[j]) < rank else w
                w = k1 if max(r1, row1[j]) < rank else w
                w = k2 if max(r2, row2[j]) < rank else w
                found[j] = k3 if max(r3, row3[j]) < rank else w
        for j in range(i):
            rank = row[j]
            if rank == ABSENT:
                continue
            w = found[j]
            if w < 0:
                row_j = ranks[j]
                for t in range(NEIGHBOURS):
                    k = near[j, t]
                    if max(row_j[k], row[k]) < rank:
                        w = k
                        break
            if w < 0:
                w = _in_lune(n, ranks, i, j, rank, 0)
            witness[rank] = w
    return witness


@kernel
def _nearest_neighbours(n, edge):
    """The nearest 8 neighbours of each vertex, read off the sorted edges; the vertex itself, which is in no lune, fills up."""
    near = np.empty((n, NEIGHBOURS), np.int32)
    for i in range(n):
        near[i] = i
    filled = np.zeros(n, np.int64)
    unfinished = n
    for rank in range(edge.shape[0]):
        i, j = _ends(edge[rank])
        for u, v in ((i, j), (j, i)):
            if filled[u] < NEIGHBOURS:
                near[u, filled[u]] = v
                filled[u] += 1
                unfinished -= 1 if filled[u] == NEIGHBOURS else 0
        if unfinished == 0:
            break
    return near


@kernel
def _in_lune(n, ranks, i, j, rank, start):
    """The first vertex >= start in the lune of the edge (i, j) of the given rank, or -1.

    A lune is mostly full or empty: a few single steps find a vertex of a full one, one vectorised minimum proves an empty one.
    """
    row_i = ranks[i, start:n]  # slices, so that the loops below count from 0 and vectorise
    row_j = ranks[j, start:n]
    soon = min(16, n - start)
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
def _next_cofacet(n, edge, ranks, witness, e, code):
    """Code of the first cofacet of the edge ``e`` after ``code``."""
    i, j = _ends(edge[e])
    bound = np.int32(max(code >> APEX_BITS, e))
    w = witness[e]
    if w >= 0 and bound == e:  # the cofacets inside the lune come first: the witness, then the others by index
        if code < np.int64(e) << APEX_BITS:
            return np.int64(e) << APEX_BITS
        k = _in_lune(n, ranks, i, j, e, code & APEX)
        if k == w:
            k = _in_lune(n, ranks, i, j, e, k + 1)
        if k >= 0:
            return (np.int64(e) << APEX_BITS) + k + 1
    row_i = ranks[i]
    row_j = ranks[j]
    longest = ABSENT
    for k in range(n):
        m = max(row_i[k], row_j[k])
        longest = min(longest, m if m > bound else ABSENT)
    if longest == ABSENT:
        return NO_COFACET
    a, b = _ends(edge[longest])
    opposite = j if a == i or b == i else i
    return (np.int64(longest) << APEX_BITS) + (0 if witness[longest] == opposite else opposite + 1)


@kernel
def _reduce(n, edge, ranks, witness, in_tree):
    """Birth and death ranks of all columns, from the last birth to the first; death -1 for a class that never dies."""
    count = edge.shape[0]
    columns = 0
    for e in range(count):
        columns += 1 if witness[e] < 0 and not in_tree[e] else 0
    births = np.empty(columns, np.int64)
    deaths = np.empty(columns, np.int64)

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
    odd = np.zeros(count, np.bool_)

    column = 0
    for c in range(count - 1, -1, -1):
        if witness[c] >= 0 or in_tree[c]:
            continue
        births[column] = c
        deaths[column] = -1
        size = 0
        code = _next_cofacet(n, edge, ranks, witness, c, np.int64(c) << APEX_BITS)
        if code != NO_COFACET:
            heap_code[0] = code
            heap_edge[0] = c
            size = 1
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
                    deaths[column] = pivot >> APEX_BITS
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
                code = _next_cofacet(n, edge, ranks, witness, here[a], pivot)
                if code != NO_COFACET:
                    if size == heap_code.shape[0]:
                        size = _without_pairs(heap_code, heap_edge, size, odd)
                        if size > heap_code.shape[0] // 2:
                            heap_code = _grown(heap_code)
                            heap_edge = _grown(heap_edge)
                    size = _push(heap_code, heap_edge, size, code, here[a])
        if deaths[column] < 0:
            first[column + 1] = first[column]
        column += 1
    return births, deaths


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
