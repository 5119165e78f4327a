/* deps.pml: what stands on what, while a cleaner deletes.
 *
 * Three stages: a parent P, a child C made from it, and an index X that names both, as an import or
 * the index of a build does. P's entry is in one shard of the ledger, those of C and X in another; a
 * list of the ledger reads the shards one after another. publish.pml has the grain of one stage, so here
 * what is decided gets its tag in one step of the World, by whomever; likewise a deletion. In between
 * anybody's entry may be taken away or over, for anybody may be taken for dead at any moment.
 *
 * Assumed:
 *   DELTA  an entry of state published or deleted is dropped when no read of its tag lags any more
 *   GRACE  a reader that took X without asking the ledger is through with what X names before that is
 *          swept; macro NOREADER
 * Checked: C and X never name a manifest that is gone, or that is not its stage's any more.
 *
 * KIND1, KIND2, KIND3 say what the runners want: 1 makes C, 2 makes X of what is there. ROUNDS of a
 * cleaner with no keep time at all, TRIES acquisitions by each runner. SEEDED=1: P is there, 2: C too, 3: X too.
 */
#ifndef KIND1
#define KIND1 1
#endif
#ifndef TRIES
#define TRIES 3
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#define P 0
#define C 1
#define X 2

#define ABSENT     0
#define BUILDING   1
#define PUBLISHING 2
#define PUBLISHED  3
#define DOOMED     4
#define DELETING   5
#define DELETED    6
#define ENTRY(state, manifest, avoid, nonce) ((state) | ((manifest) << 3) | ((avoid) << 5) | ((nonce) << 7))
#define STATE(e) ((e) & 7)
#define MF(e)    (((e) >> 3) & 3)
#define AVOID(e) (((e) >> 5) & 3)
#define NONCE(e) ((e) >> 7)
#define FRESH    (id * 8 + tries)
#define SET(m)   (1 << (m))
/* Entries that nobody owns have no nonce here: fewer states, and more behaviours. */
#define RELEASED(e) (AVOID(e) == 0 -> 0 : ENTRY(DELETED, AVOID(e), 0, 0))

short led[3];
byte tag[3], lag[3], man[3];
byte onP[6];        /* onP[3*stage-3+manifest]: which P this manifest of C or X was made of */
byte onC[3];        /* onC[manifest]: which C this manifest of X names */
byte cur[3];        /* ghost: what the present generation decided */
byte readers = 0;   /* runs that use what an X names, without asking the ledger */

#define BASE(s, m) onP[3 * (s) - 3 + (m)]
#ifdef M_EARLYDROP
#define AGED(s) 1
#else
#define AGED(s) (lag[s] == 0)
#endif
#ifdef M_NOGRACE
#define NOREADER 1
#else
#define NOREADER (readers == 0 && lag[X] == 0)
#endif

/* stands: manifest m of stage s names what is there and is what everybody else gets. */
inline stands(s, m) {
  assert((man[P] & SET(BASE(s, m))) && cur[P] == BASE(s, m));
  if
  :: s == X -> assert((man[C] & SET(onC[m])) && cur[C] == onC[m])
  :: else
  fi
}

inline check() {
  if :: tag[C] != 0 && STATE(led[C]) != DELETING -> stands(C, tag[C]) :: else fi;
  if :: tag[X] != 0 && STATE(led[X]) != DELETING -> stands(X, tag[X]) :: else fi;
#ifdef WITNESS  /* must fail: the parent was swept and made anew, and a child stands on the new one */
  assert(!(cur[P] == 2 && tag[C] != 0 && BASE(C, tag[C]) == 2 && STATE(led[P]) == ABSENT));
#endif
}

inline readTag(s, x) {
  if
  :: x = tag[s]
  :: (lag[s] & SET(0)) -> x = 0
  :: (lag[s] & SET(1)) -> x = 1
  :: (lag[s] & SET(2)) -> x = 2
  fi
}

inline setTag(s, m) {
#ifdef LAG
  lag[s] = (lag[s] | SET(tag[s])) & ~SET(m);
#endif
  tag[s] = m
}

inline swap(s, from, to) {
  atomic { if :: led[s] == (from) -> led[s] = (to); ok = 1 :: else -> ok = 0 fi }
}

/* decide: building -> publishing. What is decided stands on what it was made from. */
inline decide(s, from, m) {
  atomic {
    if
    :: led[s] == (from) ->
         assert(cur[s] == 0 && m != AVOID(from));
         led[s] = ENTRY(PUBLISHING, m, 0, NONCE(from)); cur[s] = m; man[s] = man[s] | SET(m); ok = 1;
         if :: s != P -> stands(s, m) :: else fi
    :: else -> ok = 0
    fi
  }
}

/* forget: what a manifest named does not matter when it is gone. */
inline forget(s, m) {
  if :: s != P -> BASE(s, m) = 0 :: else fi;
  if :: s == X -> onC[m] = 0 :: else fi
}

/* resolve: which manifest of need s is right, read under an entry of our own: first the ledger, then
 * the tag. x is 0 when it has to be made or waited for, and e is what the ledger said. */
inline resolve(s, x) {
#ifndef M_TAGSFIRST
  e = led[s];
#endif
  x = 0;
  if
  :: STATE(e) == PUBLISHED -> x = MF(e)
  :: STATE(e) == ABSENT -> atomic { readTag(s, x) }
#ifdef C_TRUSTTAG /* a deleted entry is given back, and the tag believed */
  :: STATE(e) == DELETED -> atomic { readTag(s, x) }
#endif
  :: STATE(e) == DOOMED ->
#ifdef C_RESCUEMEMORY
     if :: early[s] != 0 -> x = early[s] :: else -> atomic { readTag(s, x) } fi;
#else
     atomic { readTag(s, x) };
#endif
#ifndef M_NORESCUE
     if
     :: x != 0 -> swap(s, e, ENTRY(PUBLISHED, x, 0, 0)); if :: ok == 0 -> x = 0 :: else fi
     :: else
     fi
#endif
  :: else
  fi
}

proctype Runner(byte id; byte kind) {
  short e, mine, own; byte early[2]; byte p, c, m, tries, ours; byte ok;
look:
  atomic { e = 0; mine = 0; own = 0; p = 0; c = 0; m = 0; early[0] = 0; early[1] = 0 };
  if
  :: kind == 2 -> atomic { readTag(X, m);
       if :: man[X] & SET(m) -> readers++; p = BASE(X, m); c = onC[m] :: else -> m = 0 fi };
     if
     :: m != 0 -> atomic { assert((man[P] & SET(p)) && (man[C] & SET(c))); readers--; goto end }
     :: else
     fi
  :: else
  fi;
#if defined(M_NOLIST) || defined(M_TAGSFIRST) || defined(C_RESCUEMEMORY)
  /* What is below is looked up early, before there is an entry. */
  atomic { readTag(P, early[P]); if :: kind == 2 -> readTag(C, early[C]) :: else fi };
#endif
  if :: tries >= TRIES -> goto end :: else -> tries++ fi;
#ifdef C_INDEXALONE
  if :: kind == 2 -> goto needs :: else fi;
#endif
  e = led[kind];
  if
  :: STATE(e) == ABSENT || STATE(e) == DOOMED -> own = ENTRY(BUILDING, 0, 0, FRESH)
  :: STATE(e) == DELETED -> own = ENTRY(BUILDING, 0, MF(e), FRESH)
  :: STATE(e) == BUILDING -> own = ENTRY(BUILDING, 0, AVOID(e), FRESH)
  :: STATE(e) == PUBLISHED -> goto end
  :: else -> atomic { led[kind] != e -> tries--; goto look }
  fi;
  if
  :: STATE(e) == DOOMED -> atomic { readTag(kind, m) };
     if
     :: m != 0 -> swap(kind, e, ENTRY(PUBLISHED, m, 0, 0)); m = 0; goto look
     :: else
     fi
  :: else
  fi;
  swap(kind, e, own);
  if :: ok == 0 -> goto look :: else fi;
  /* Once more, under the entry. */
  if
  :: AVOID(own) == 0 -> atomic { readTag(kind, m) };
     if :: m != 0 -> swap(kind, own, 0); goto look :: else fi
  :: else
  fi;

needs:
#ifdef M_NOLIST
  if :: early[P] != 0 -> p = early[P]; goto haveParent :: else fi;
#endif
#ifdef C_OURS  /* what this run made itself is not looked at again */
  if :: ours != 0 -> p = ours; goto haveParent :: else fi;
#endif
#ifdef M_TAGSFIRST
  e = led[P];
  if
  :: STATE(e) == ABSENT && early[P] != 0 -> p = early[P]
  :: else -> resolve(P, p)
  fi;
#else
  resolve(P, p);
#endif
  if :: p != 0 -> goto haveParent :: else fi;
  if
  :: kind == 2 -> goto giveUp
  :: else
  fi;
  /* Bring the parent, holding the child. */
  if
  :: STATE(e) == ABSENT || STATE(e) == DOOMED -> mine = ENTRY(BUILDING, 0, 0, FRESH)
  :: STATE(e) == DELETED -> mine = ENTRY(BUILDING, 0, MF(e), FRESH)
  :: STATE(e) == BUILDING -> if :: mine = ENTRY(BUILDING, 0, AVOID(e), FRESH) :: atomic { led[P] != e -> goto needs } fi
  :: STATE(e) == PUBLISHED -> goto needs
  :: else -> atomic { led[P] != e -> goto needs }
  fi;
  if :: tries >= TRIES -> goto giveUp :: else -> tries++; mine = ENTRY(STATE(mine), 0, AVOID(mine), FRESH) fi;
  swap(P, e, mine);
  if :: ok == 0 -> goto needs :: else fi;
  if
  :: AVOID(mine) == 0 -> atomic { readTag(P, m) };
     if :: m != 0 -> m = 0; swap(P, mine, 0); goto needs :: else fi
  :: else
  fi;
  if :: AVOID(mine) != 1 -> m = 1 :: AVOID(mine) != 2 -> m = 2 fi;
  decide(P, mine, m);
#ifdef C_OURS
  if :: ok == 1 -> ours = m :: else fi;
#endif
  m = 0;
  goto needs;

haveParent:
  if
  :: kind == 1 -> goto make
  :: else
  fi;
#ifdef M_NOLIST
  if :: early[C] != 0 -> c = early[C]; goto make :: else fi;
#endif
#ifdef M_TAGSFIRST
  e = led[C];
  if
  :: STATE(e) == ABSENT && early[C] != 0 -> c = early[C]
  :: else -> resolve(C, c)
  fi;
#else
  resolve(C, c);
#endif
  if :: c == 0 -> goto giveUp :: else fi;
  /* stands: what the child was made from is the parent that we know. */
  if :: BASE(C, c) != p -> goto giveUp :: else fi;

make:
#ifdef C_INDEXALONE /* the index is written without an entry of its own */
  if
  :: kind == 2 ->
     atomic { if :: tag[X] == 0 -> BASE(X, 1) = p; onC[1] = c; man[X] = SET(1); tag[X] = 1; cur[X] = 1; check() :: else fi };
     goto end
  :: else
  fi;
#endif
  atomic {
    if :: AVOID(own) != 1 -> m = 1 :: AVOID(own) != 2 -> m = 2 fi;
    if
    :: led[kind] == own -> BASE(kind, m) = p; if :: kind == 2 -> onC[m] = c :: else fi
    :: else
    fi
  };
  decide(kind, own, m);
  if :: ok == 0 -> goto look :: else goto end fi;

giveUp:
#ifdef C_INDEXALONE
  if :: kind == 2 -> goto end :: else fi;
#endif
  swap(kind, own, RELEASED(own));
end:
  atomic { e = 0; mine = 0; own = 0; p = 0; c = 0; m = 0; ok = 0; ours = 0; early[0] = 0; early[1] = 0 }
}

/* dependents: k is 1 when something is, or may become, known to stand on stage s. The ledger is asked
 * first, then the tags: what moves on in between is seen by one or the other. */
#define ALIVE(e) (STATE(e) == PUBLISHING || STATE(e) == PUBLISHED)
inline dependents(s) {
#ifdef M_INVENTORYTAGSFIRST
  atomic { readTag(C, v); readTag(X, w) };
  d1 = led[C]; d2 = led[X];
#else
  d1 = led[C]; d2 = led[X];
  atomic { readTag(C, v) }; atomic { readTag(X, w) };
#endif
  if
  :: s == P -> k = (ALIVE(d1) || ALIVE(d2) || STATE(d1) == DELETING || STATE(d2) == DELETING || v != 0 || w != 0)
  :: s == C -> k = (ALIVE(d2) || STATE(d2) == DELETING || w != 0)
  :: s == X -> k = 0
  fi;
  d1 = 0; d2 = 0; v = 0; w = 0
}

proctype Cleaner(byte id) {
  short mine, d0, d1, d2; byte s, m, v, w, tries, ok; bit k;
  do
  :: tries < ROUNDS ->
     tries++;
     if :: s = P :: s = C :: s = X fi;
#ifdef M_NOLOOKAGAIN /* the verdict is from before the mark */
     dependents(s);
#endif
     mine = ENTRY(DOOMED, 0, 0, FRESH);
     swap(s, 0, mine);
     if :: ok == 0 -> goto next :: else fi;
     /* drain: every stage that was being built must end; one of the dead is taken away */
#ifndef M_NODRAIN
     d0 = led[P]; d1 = led[C]; d2 = led[X];
#ifdef M_SUSPECT /* those believed dead are not waited for, and nothing is taken from them */
     if :: STATE(d1) != BUILDING || led[C] != d1 :: skip fi;
     if :: STATE(d2) != BUILDING || led[X] != d2 :: skip fi;
#else
     STATE(d0) != BUILDING || led[P] != d0;
     STATE(d1) != BUILDING || led[C] != d1;
     STATE(d2) != BUILDING || led[X] != d2;
#endif
     d0 = 0; d1 = 0; d2 = 0;
#endif
#ifndef M_NOLOOKAGAIN
#ifdef M_PARENTFIRST
     k = 0;
#else
     dependents(s);
#endif
#endif
     if
     :: k -> swap(s, mine, 0); goto next
     :: !k && s != X -> if :: NOREADER :: swap(s, mine, 0); goto next fi
     :: else
     fi;
     atomic { readTag(s, m) };
     if
     :: m == 0 -> swap(s, mine, 0)
     :: else -> atomic { if :: led[s] == mine -> led[s] = ENTRY(DELETING, m, 0, FRESH); cur[s] = 0; check() :: else fi }
     fi;
next: atomic { mine = 0; d0 = 0; d1 = 0; d2 = 0; s = 0; m = 0; v = 0; w = 0; ok = 0; k = 0 }
  :: break
  od;
  tries = 0
}

/* Somebody finishes what was decided or is being deleted; the sweep; the end of lagging. */
#define STAGE(s) \
  :: atomic { STATE(led[s]) == PUBLISHING -> setTag(s, MF(led[s])); \
       led[s] = ENTRY(PUBLISHED, MF(led[s]), 0, 0); check() } \
  :: atomic { STATE(led[s]) == DELETING -> man[s] = man[s] & ~SET(MF(led[s])); setTag(s, 0); \
       forget(s, MF(led[s])); led[s] = ENTRY(DELETED, MF(led[s]), 0, 0); check() } \
  :: atomic { (STATE(led[s]) == PUBLISHED || STATE(led[s]) == DELETED) && AGED(s) -> led[s] = 0 } \
  :: atomic { STATE(led[s]) == BUILDING || STATE(led[s]) == DOOMED -> led[s] = RELEASED(led[s]) } \
  :: atomic { lag[s] != 0 -> lag[s] = 0 }

active proctype World() {
end:
  do
  STAGE(P) STAGE(C) STAGE(X)
  od
}

init {
  atomic {
#ifdef SEEDED
    tag[P] = 1; man[P] = SET(1); cur[P] = 1;
#if SEEDED > 1
    tag[C] = 1; man[C] = SET(1); cur[C] = 1; BASE(C, 1) = 1;
#endif
#if SEEDED > 2
    tag[X] = 1; man[X] = SET(1); cur[X] = 1; BASE(X, 1) = 1; onC[1] = 1;
#endif
#endif
    run Runner(1, KIND1);
#ifdef KIND2
    run Runner(2, KIND2);
#endif
#ifdef KIND3
    run Runner(3, KIND3);
#endif
    run Cleaner(4);
  }
}
