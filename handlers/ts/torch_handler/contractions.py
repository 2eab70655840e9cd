"""English contractions and what they stand for: TorchServe's, in its order, by their rules.

`text_handler` tries them in this order, and the first that fits wins: "can't've" is read as
"can't" with a "'ve" left over. Models were trained on texts cleaned like that.
"""

from __future__ import annotations

from typing import Dict, Iterator, Tuple

_ENDINGS = {
    "'d": "would",
    "'d've": "would have",
    "'ll": "will",
    "'ll've": "will have",
    "'m": "am",
    "'re": "are",
    "'s": "is",
    "'ve": "have",
    "n't": "not",
    "n't've": "not have",
}

# A word and the endings it takes, or, with =, a contraction that follows no rule.
_TABLE = """
ain't=is not
are n't
can't=cannot
can't've=cannot have
'cause=because
could 've n't n't've
did n't
does n't
do n't
had n't n't've
has n't
have n't
he 'd 'd've 'll 'll've 's
how'd=how did
how'd'y=how do you
how 'll 's
I 'd 'd've 'll 'll've 'm 've
i 'd 'd've 'll 'll've 'm 've
is n't
it 'd 'd've 'll 'll've 's
let's=let us
ma'am=madam
may n't
might 've n't n't've
must 've n't n't've
need n't n't've
o'clock=of the clock
ought n't n't've
shan't=shall not
sha'n't=shall not
shan't've=shall not have
she 'd 'd've 'll 'll've 's
should 've n't n't've
so 've
so's=so as
that 'd 'd've 's
there 'd 'd've 's
they 'd 'd've 'll 'll've 're 've
to 've
was n't
we 'd 'd've 'll 'll've 're 've
were n't
what 'll 'll've 're 's 've
when 's 've
where'd=where did
where 's 've
who 'll 'll've 's 've
why 's 've
will 've
won't=will not
won't've=will not have
would 've n't n't've
y'all=you all
y'all'd=you all would
y'all'd've=you all would have
y'all're=you all are
y'all've=you all have
you 'd 'd've 'll 'll've 're 've
"""


def _contractions() -> Iterator[Tuple[str, str]]:
    for line in _TABLE.strip().split("\n"):
        contraction, irregular, meaning = line.partition("=")
        if irregular:
            yield contraction, meaning
            continue
        word, *endings = line.split()
        for ending in endings:
            yield word + ending, f"{word} {_ENDINGS[ending]}"


CONTRACTION_MAP: Dict[str, str] = dict(_contractions())
