/* Attempts, reveals and epochs of the pairwise seal: N sites, of which the last conspires with a coordinator that lies.

   A context is what masks are bound to: exchange, attempt, history, and the epochs of the sites. Exchange 0 has two attempts;
   exchange 1 has one, and two histories, for the conspirator helps to forge any sum of exchange 0. Epochs: site 0 may start
   anew once, with its files (RESTART) or with those of a backup (RESTORE); the conspirator has two epochs, whenever it likes.

   All that enemies do is here: they choose whom to ask to reveal which list in which context, whom to give which sum, and when
   site 0 starts anew. Messages themselves are asked for as soon as a site would answer (`ask`): to have one more never hurts
   the enemies, and to send one changes nothing at a site. A list that leaves the conspirator out opens no sooner than the one
   with it, so there is none.

   Secrets are not modelled as numbers. A sum over a list is open when T sites revealed that list in that context, the
   conspirator among them without being asked; less opens nothing, which is what hiding shares under tokens is for. */

#ifndef N
#define N 4
#endif
#define H (N - 1)             /* honest sites: 0 to H - 1 */
#define T (2 * N / 3 + 1)     /* as `threshold` in infl.privacy.seal.reveal */
#define CONTEXTS 12
#define FIRST 8               /* contexts of exchange 0 */
#define NONE 255

#ifdef NO_EPOCH               /* mutant: epochs are no part of the context */
#define IN_CONTEXT(epoch) 0
#else
#define IN_CONTEXT(epoch) (epoch)
#endif

/* A list is named by the honest site that it leaves out; H: none. */
#define LISTS (H + 1)
#define IN_LIST(site, list) ((site) != (list))

#define EXCHANGE(c) ((c) < FIRST -> 0 : 1)
#define ATTEMPT(c) ((c) < FIRST -> (c) / 4 : 0)
#define HISTORY(c) ((c) < FIRST -> 0 : ((c) - FIRST) / 2)
#define EPOCH(c) ((c) < FIRST -> ((c) / 2) % 2 : (c) % 2)   /* of site 0 */
#define HELPER(c) ((c) < FIRST -> (c) % 2 : 0)              /* epoch of the conspirator */

byte due[H], history[H];      /* next exchange; which sum was applied before it */
byte revealed[H];             /* in which context this site revealed last */
byte given[H * CONTEXTS];     /* list that it revealed in a context, plus 1 */
bool sent[H * CONTEXTS];      /* whether the enemies have its message */
byte under[CONTEXTS];         /* plaintext of site 0 under the masks of a context */
short ledger;                 /* contexts in which site 0 knows that it sent something */
byte epoch, plaintext = 1;    /* of site 0; what it trained, anew after each start */
bool kept;                    /* whether there is a backup of site 0 */
byte b_due, b_history, b_revealed;
short b_ledger;
byte opened[2];               /* what is open of an exchange: context * LISTS + list + 1 */
byte i, c, l, k, n;

/* Whether site i answers in context c: it is due, has this history and this epoch, and revealed in no other context of it. */
#ifdef REPLAYED               /* mutant: an exchange whose sum was applied is answered again */
#define DUE (due[i] >= EXCHANGE(c))
#else
#define DUE (due[i] == EXCHANGE(c))
#endif
#ifdef NO_ONCE                /* mutant: further attempts are answered after a reveal */
#define ONCE true
#else
#ifdef BY_ATTEMPT             /* mutant: what is remembered of a reveal is the attempt, not the context */
#define ONCE (revealed[i] == NONE || EXCHANGE(revealed[i]) != EXCHANGE(c) || ATTEMPT(revealed[i]) == ATTEMPT(c))
#else
#define ONCE (revealed[i] == NONE || EXCHANGE(revealed[i]) != EXCHANGE(c) || revealed[i] == c)
#endif
#endif
#define NAMED (EPOCH(c) <= IN_CONTEXT(epoch) && (i != 0 || EPOCH(c) == IN_CONTEXT(epoch)) && HELPER(c) <= IN_CONTEXT(1))
#define ANSWERS (DUE && ONCE && NAMED && (EXCHANGE(c) == 0 || history[i] == HISTORY(c)))

inline ask() {                /* every message that a site would send now, in every context */
  i = 0;
  do
  :: i < H ->
     c = 0;
     do
     :: c < CONTEXTS ->
        if
        :: ANSWERS && i == 0 ->
           if
           :: under[c] == 0 || (under[c] != plaintext && !(ledger & (1 << c))) ->
              assert(under[c] == 0); /* else: two plaintexts under one mask */
              under[c] = plaintext; ledger = ledger | (1 << c); sent[c] = true
           :: else
           fi
        :: ANSWERS && i != 0 -> sent[i * CONTEXTS + c] = true
        :: else
        fi;
        c++
     :: else -> break
     od;
     i++
  :: else -> break
  od;
  i = 0; c = 0
}

inline look() {               /* whether what was revealed in context c opens the sum of list l, and another one was open */
  n = 1;                      /* the conspirator gives its part */
  k = 0;
  do
  :: k < H -> if :: given[k * CONTEXTS + c] == l + 1 -> n++ :: else fi; k++
  :: else -> break
  od;
  if
  :: n >= T && opened[EXCHANGE(c)] == 0 -> opened[EXCHANGE(c)] = c * LISTS + l + 1
  :: n >= T && opened[EXCHANGE(c)] != 0 && opened[EXCHANGE(c)] != c * LISTS + l + 1 -> assert(false) /* two sums of one exchange */
  :: else
  fi;
  k = 0; n = 0
}

#ifdef TWO_LISTS              /* mutant: a site reveals a second list in one context */
#define FREE true
#else
#define FREE (given[i * CONTEXTS + c] == 0)
#endif

inline all_sent() {           /* n: how many honest sites of list l have sent no message in context c */
  n = 0; k = 0;
  do
  :: k < H -> if :: IN_LIST(k, l) && !sent[k * CONTEXTS + c] -> n++ :: else fi; k++
  :: else -> break
  od;
  k = 0
}

inline reveal() {             /* any site, any context, any list that has the site and enough others */
  select(i : 0 .. H - 1);
  select(c : 0 .. CONTEXTS - 1);
  if
  :: ANSWERS && FREE && sent[i * CONTEXTS + c] ->
     select(l : 0 .. H);
     skip; d_step {
       all_sent();
       if
       :: n == 0 && IN_LIST(i, l) && (l == H || N - 1 >= T) ->
          given[i * CONTEXTS + c] = l + 1; revealed[i] = c; look(); ask()
       :: else
       fi;
       i = 0; c = 0; l = 0; n = 0
     }
  :: else -> d_step { i = 0; c = 0 }
  fi
}

inline apply() {              /* any site, any sum: the conspirator can make one that passes its tag */
  select(i : 0 .. H - 1);
  if
  :: due[i] == 0 -> select(k : 0 .. 1); skip; d_step { due[i] = 1; history[i] = k; k = 0; ask() }
  :: else -> i = 0
  fi
}

active proctype enemies() {
  d_step {
    i = 0;
    do :: i < H -> revealed[i] = NONE; i++ :: else -> break od;
    b_revealed = NONE;
    ask()
  }
  do
  :: atomic { reveal() }
#ifndef ONE                    /* exchange alone */
  :: atomic { apply() }
#endif
#ifdef RESTART
  :: d_step { epoch == 0 -> epoch = 1; plaintext = 2; ask() }
#endif
#ifdef RESTORE
  :: d_step { !kept && epoch == 0 -> kept = true; b_due = due[0]; b_history = history[0]; b_revealed = revealed[0]; b_ledger = ledger }
  :: d_step { kept && epoch == 0 ->
       epoch = 1; plaintext = 2; due[0] = b_due; history[0] = b_history; revealed[0] = b_revealed; ledger = b_ledger; ask() }
#endif
  od
}
