/* epoch.pml: a project moves to another storage, and so from ledger and storage 0 to ledger and storage 1,
 * while runners publish one stage. A runner keeps the addresses with which it began.
 *
 * Every write of a ledger tests its sentinel (open or closed), so that closing fences all writers. The switch:
 * copy (ALLCOPY) or not; close the old ledger; finish what is being published there; copy what it has through
 * entries of the new ledger; open that; a miss looks into the old storage.
 *
 * Assumed: the old storage stays readable, and nothing else writes there. Tag PUTs are as in publish.pml.
 * Checked: whoever adopts the stage, anywhere and at any time, adopts the same manifest; no tag moves; and a
 * decision is only made in an open ledger.
 *
 * Mutants: M_NOFENCE the old ledger stays open      M_NOFINISH what is being published there is left alone
 *          M_RAWCOPY the copy puts tags without entries, in a ledger that is open already
 *          M_NOFALL  misses do not look into the old storage
 */
#ifndef NR
#define NR 2
#endif
#define ABSENT 0
#define BUILDING 1
#define PUBLISHING 2
#define PUBLISHED 3
#define ENTRY(state, manifest, nonce) ((state) | ((manifest) << 3) | ((nonce) << 5))
#define STATE(e) ((e) & 7)
#define MF(e)    (((e) >> 3) & 3)
#define SET(m)   (1 << (m))

short led[2]; byte tag[2], puts[2]; bit open[2], moved = 0;
byte seen = 0;   /* ghost: what was adopted first */

inline adopt(m) {
  assert(seen == 0 || seen == (m)); seen = (m)
}
inline swap(l, from, to) { atomic { if :: led[l] == (from) && open[l] -> led[l] = (to); ok = 1 :: else -> ok = 0 fi } }

proctype Runner(byte id) {
  short e, mine; byte m, l, tries; bit ok;
begin:
  atomic { e = 0; mine = 0; m = 0; l = moved };
  atomic { m = tag[l]; if :: m != 0 -> adopt(m); goto end :: else fi };
  if :: tries >= 2 -> goto end :: else -> tries++ fi;
  if :: open[l] :: !open[l] -> if :: moved && l == 0 -> goto begin :: goto end fi fi;
  e = led[l];
  if
  :: STATE(e) == PUBLISHED -> atomic { if :: led[l] == e -> adopt(MF(e)) :: else fi }; goto end
  :: STATE(e) == PUBLISHING -> mine = ENTRY(PUBLISHING, MF(e), id * 4 + tries)
  :: else -> mine = ENTRY(BUILDING, 0, id * 4 + tries)
  fi;
  swap(l, e, mine);
  if :: !ok -> goto begin :: else fi;
  if :: STATE(mine) == PUBLISHING -> m = MF(mine); goto put :: else fi;
  m = tag[l];
#ifndef M_NOFALL
  if :: m == 0 && l == 1 -> m = tag[0] :: else fi;     /* what the old storage has is decided anew, the same */
#endif
  if :: m == 0 -> if :: m = 1 :: m = 2 fi :: else fi;
  swap(l, mine, ENTRY(PUBLISHING, m, id * 4 + tries));
  if :: !ok -> goto begin :: else -> mine = ENTRY(PUBLISHING, m, id * 4 + tries) fi;
put:
  atomic { if :: led[l] == mine && open[l] -> puts[l] = puts[l] | SET(m) :: else -> goto begin fi };
  if :: tag[l] == m :: goto begin fi;
  atomic { if :: led[l] == mine && open[l] -> led[l] = ENTRY(PUBLISHED, m, id * 4 + tries); adopt(m) :: else -> goto begin fi };
#ifdef WITNESS  /* must fail: somebody publishes in the new storage what the old one had */
  assert(l == 0 || tag[0] == 0);
#endif
end:
  atomic { e = 0; mine = 0; m = 0; l = 0; tries = 0; ok = 0 }
}

proctype Switch() {
  byte m;
#ifndef M_NOFENCE
  open[0] = 0;
#endif
#ifdef M_RAWCOPY
  open[1] = 1; moved = 1;
#endif
#ifndef M_NOFINISH
  if
  :: STATE(led[0]) == PUBLISHING -> m = MF(led[0]); puts[0] = puts[0] | SET(m); tag[0] == m
  :: else
  fi;
#endif
  m = tag[0];
#ifdef M_RAWCOPY
  if :: m != 0 -> puts[1] = puts[1] | SET(m) :: else fi;
#else
#ifdef ALLCOPY
  if :: m != 0 -> led[1] = ENTRY(PUBLISHING, m, 31); puts[1] = puts[1] | SET(m); tag[1] == m; led[1] = ENTRY(PUBLISHED, m, 31) :: else fi;
#endif
  open[1] = 1; moved = 1;
#endif
  m = 0
}

#define LAND(s, m) :: atomic { (puts[s] & SET(m)) -> if :: puts[s] = puts[s] & ~SET(m) :: skip fi; \
  assert(tag[s] == 0 || tag[s] == m); tag[s] = m }
#define SWEEP(s) :: atomic { STATE(led[s]) == PUBLISHED && puts[s] == 0 && tag[s] == MF(led[s]) && open[s] -> led[s] = 0 }
active proctype World() {
end:
  do LAND(0, 1) LAND(0, 2) LAND(1, 1) LAND(1, 2) SWEEP(0) SWEEP(1) od
}

init { atomic { open[0] = 1; run Runner(1); run Runner(2);
#if NR > 2
  run Runner(3);
#endif
  run Switch() } }
