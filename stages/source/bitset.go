package source

import "math/bits"

// bitset is a set of small numbers.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) clear(i int)    { b[i/64] &^= 1 << (i % 64) }
func (b bitset) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// setRange sets [lo, hi).
func (b bitset) setRange(lo, hi int) {
	for ; lo < hi && lo%64 != 0; lo++ {
		b.set(lo)
	}
	for ; lo+64 <= hi; lo += 64 {
		b[lo/64] = ^uint64(0)
	}
	for ; lo < hi; lo++ {
		b.set(lo)
	}
}

// clearRange clears [lo, hi).
func (b bitset) clearRange(lo, hi int) {
	for ; lo < hi && lo%64 != 0; lo++ {
		b.clear(lo)
	}
	for ; lo+64 <= hi; lo += 64 {
		b[lo/64] = 0
	}
	for ; lo < hi; lo++ {
		b.clear(lo)
	}
}

// add sets what is in o.
func (b bitset) add(o bitset) {
	for i, w := range o {
		b[i] |= w
	}
}

// remove clears what is in o.
func (b bitset) remove(o bitset) {
	for i, w := range o {
		b[i] &^= w
	}
}

// keep clears what is not in o.
func (b bitset) keep(o bitset) {
	for i, w := range o {
		b[i] &= w
	}
}

func (b bitset) clone() bitset { return append(bitset(nil), b...) }

func (b bitset) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// all yields the members in ascending order.
func (b bitset) all(yield func(int) bool) {
	for i, w := range b {
		for ; w != 0; w &= w - 1 {
			if !yield(i*64 + bits.TrailingZeros64(w)) {
				return
			}
		}
	}
}
