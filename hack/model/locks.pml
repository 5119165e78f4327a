/* locks.pml: who waits for whom while runs hold the entries of chains.
 *
 * Four stages: 1 and 2 stand on 0, and 3 on 2 and, by an import, on 1. Runner 1 wants the image that ends in 3
 * first, runner 2 the one that ends in 1, runner 3 begins in the middle. Each host makes one stage at a time.
 *
 * The rule: entries are only tried for; what another holds is watched. A stage takes the host's slot only when
 * all it stands on is published, and any stage that is held and can be made is made. Who fails releases what it
 * holds above the failure. What stands on a stage that another makes may be given back until that is made, so that
 * others find it free meanwhile. The entries of the dead are taken over.
 *
 * Places: 1 and 3 are images that every run asks for, and a run has one of them in hand at a time. An image is tried
 * for in the run's place, or while the image that has the place stands on it: then it is wanted, and needs none. The
 * place is left when the image is made, is lost or is another's, and while another makes what it stands on.
 *
 * Assumed: a dead runner is found dead at some time (its session stands still for the TTL); watches wake.
 * Checked: every runner ends (FAILS=1: also after a command failed; CRASHES=1: also beside a dead runner).
 *
 * Mutants: M_BLOCKING  waits to acquire one entry while it keeps others   M_SLOT  waits for what a stage stands on in the slot
 *          M_WHOLE     takes a chain whole or not at all                   M_KEEP  a failed run keeps what it holds
 *          M_NOTAKEOVER nobody takes over from the dead                     M_NOWANT  an image waits for the place that it is waited for in
 */
#ifndef NR
#define NR 2
#endif
#ifndef FAILS
#define FAILS 0
#endif
#ifndef PLACES
#define PLACES 1 /* 0: as many as images, with fewer states */
#endif
#ifndef CRASHES
#define CRASHES 0
#endif

byte held[4];               /* the runner that has the entry, 0 nobody */
bit made[4], failed[4], fin[4], dead[4];
byte fails = FAILS, crashes = CRASHES;

#define READY(s)  (s == 0 || made[0] && (s != 3 || made[1] && made[2]))
#define LOST(s)   (failed[s] || s != 0 && failed[0] || s == 3 && (failed[1] || failed[2]))
#define ALL       (made[0] && made[1] && made[2] && made[3])
#define HOPELESS  (LOST(0) || LOST(1) || LOST(2) || LOST(3))
#define HOLDS     (held[0] == id || held[1] == id || held[2] == id || held[3] == id)
#ifdef M_NOTAKEOVER
#define FREE(s)   (held[s] == 0)
#else
#define FREE(s)   (held[s] == 0 || dead[held[s]])
#endif

ltl progress { <> ((fin[1] || dead[1]) && (NR < 2 || fin[2] || dead[2]) && (NR < 3 || fin[3] || dead[3])) }

inline finish(s) { made[s] = 1; held[s] = 0 }

/* wanted: the i-th stage in the order in which a runner asks. */
inline wanted(i, s) {
  if
  :: id == 1 -> s = 3 - i
  :: id == 2 -> s = (i == 0 -> 1 : (i == 1 -> 0 : i))
  :: id == 3 -> s = (i + 2) % 4
  fi
}

#define TRY(s)     :: atomic { FREE(s) && !made[s] && !LOST(s) && held[s] != id && !(gave[s] && BLOCKED(s)) && INHAND(s) -> held[s] = id }
#define MAKE(s)    :: atomic { held[s] == id && READY(s) && !made[s] -> at = s; goto make }
#define RELEASE(s) :: atomic { held[s] == id && LOST(s) -> held[s] = 0 }

#define OTHERS(s)   (!made[s] && held[s] != 0 && held[s] != id && !dead[held[s]])
#define BLOCKED(s)  (s != 0 && OTHERS(0) || s == 3 && (OTHERS(1) || OTHERS(2)))
#define GIVEBACK(s) :: atomic { held[s] == id && BLOCKED(s) -> held[s] = 0; gave[s] = 1; if :: place == s -> place = 0 :: else fi }

#define IMAGE(s)  (s == 1 || s == 3)
#ifdef M_NOWANT
#define WANTED(s) 0
#else
#define WANTED(s) (s == 1 && place == 3)
#endif
#define INHAND(s) (!PLACES || !IMAGE(s) || place == s || WANTED(s))
#define ENTER(s)  :: atomic { PLACES && place == 0 && !made[s] && !LOST(s) && !OTHERS(s) && !(gave[s] && BLOCKED(s)) -> place = s }
#define LEAVE(s)  :: atomic { place == s && (made[s] || LOST(s) || OTHERS(s)) -> place = 0 }

proctype Runner(byte id) {
  byte i, at, place; /* place: the image that is in hand, 0 none */
  bit gave[4];
#if defined(M_BLOCKING) || defined(M_SLOT)
  do
  :: i < 4 -> wanted(i, at);
#ifdef M_BLOCKING
     if :: atomic { FREE(at) && !made[at] -> held[at] = id } :: made[at] fi;
#else
     atomic { if :: FREE(at) && !made[at] -> held[at] = id :: else fi };
#endif
     i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < 4 -> wanted(i, at);
     if :: held[at] == id -> READY(at); atomic { finish(at) } :: else fi;
     i++
  :: else -> break
  od;
  ALL;
#else
  do
  :: ALL -> break
#ifdef M_WHOLE /* asks for all that is missing, again and again */
  :: atomic { !ALL && (made[0] || held[0] == 0) && (made[1] || held[1] == 0) && (made[2] || held[2] == 0) && (made[3] || held[3] == 0) ->
       i = 0; do :: i < 4 -> if :: !made[i] -> held[i] = id :: else fi; i++ :: else -> break od };
     if
     :: i = 0; do :: i < 4 -> if :: held[i] == id -> atomic { finish(i) } :: else fi; i++ :: else -> break od
     :: i = 0; do :: i < 4 -> if :: held[i] == id -> held[i] = 0 :: else fi; i++ :: else -> break od /* lost one: gives all back */
     fi
#else
  :: HOPELESS && !HOLDS -> break
  TRY(0) TRY(1) TRY(2) TRY(3)
  MAKE(0) MAKE(1) MAKE(2) MAKE(3)
  GIVEBACK(1) GIVEBACK(2) GIVEBACK(3)
  ENTER(1) ENTER(3) LEAVE(1) LEAVE(3)
#ifndef M_KEEP
  RELEASE(1) RELEASE(2) RELEASE(3)
#endif
  :: atomic { crashes > 0 && HOLDS -> crashes--; dead[id] = 1 }; goto end
  :: false ->
make:
     if
     :: atomic { held[at] == id -> finish(at) }
     :: atomic { fails > 0 -> fails--; failed[at] = 1; held[at] = 0 }
     :: held[at] != id
     fi
#endif
  od;
#endif
  fin[id] = 1;
end:
  atomic { i = 0; at = 0; place = 0 }
}

init { atomic {
  run Runner(1);
#if NR > 1
  run Runner(2);
#endif
#if NR > 2
  run Runner(3);
#endif
} }
