"""Which English words may take each other's place: a short list, reviewed pair by pair.

Each pair shares a meaning in WordNet 3.0 (a test says so), and a reader hardly notices the exchange
whatever the sentence is. WordNet alone does not tell the second: to it a student is a pupil, and
foliage is a leaf. So most pairs go one way: who begins starts, but nobody begins a car.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

# `word other: form=form form>form ~form`: forms on either side of `=` stand for each other, of `>`
# the left one becomes the right one alone. A form after `~` is one of the first word that nothing
# stands for; where it occurs the word stays. The rest of a line is written out, not derived.
_TABLE = """
abroad overseas: abroad>overseas
abruptly suddenly: abruptly>suddenly
accomplish achieve: accomplish>achieve accomplishes>achieves accomplishing>achieving ~accomplished
allow permit: allow>permit allows>permits allowed=permitted allowing>permitting
alter modify: alter>modify alters>modifies altering>modifying altered>modified
aluminum aluminium: aluminum=aluminium
annually yearly: annually>yearly
anyhow anyway: anyhow>anyway
anyplace anywhere: anyplace>anywhere
apologize apologise: apologize=apologise apologizes=apologises apologized=apologised ~apologizing
automobile car: automobile>car automobiles>cars
autumn fall: autumn>fall ~autumns
begin start: begin>start begins>starts began>started begun>started ~beginning ~beginnings
behavior behaviour: behavior=behaviour behaviors=behaviours
beverage drink: beverage>drink beverages>drinks
bicycle bike: bicycle>bike bicycles>bikes
big large: bigger=larger biggest=largest ~big
buy purchase: buy>purchase buys>purchases buying=purchasing bought=purchased
calculate compute: calculate>compute calculates>computes calculated>computed calculating>computing
cemetery graveyard: cemetery=graveyard cemeteries=graveyards
completely entirely: completely=entirely
consequently therefore: consequently=therefore
demonstrate show: demonstrate>show demonstrates>shows demonstrating>showing ~demonstrated
doughnut donut: doughnut=donut doughnuts=donuts
eggplant aubergine: eggplant=aubergine eggplants=aubergines
exactly precisely: exactly=precisely
extremely exceedingly: extremely=exceedingly
famous renowned: famous=renowned
fireman firefighter: fireman>firefighter firemen>firefighters
fortunately luckily: fortunately=luckily
furthermore moreover: furthermore=moreover
gasoline petrol: gasoline=petrol
genuinely truly: genuinely>truly
glad happy: glad>happy
grandfather grandpa: grandfather=grandpa grandfathers=grandpas
grandmother grandma: grandmother=grandma grandmothers=grandmas
hardly scarcely: hardly=scarcely
incorrect wrong: incorrect>wrong
inexpensive cheap: inexpensive>cheap
infant baby: infants>babies ~infant
instantly immediately: instantly>immediately
intentionally deliberately: intentionally=deliberately
kid child: kids>children ~kid
largely mostly: largely=mostly
lawyer attorney: lawyer=attorney lawyers=attorneys
likewise similarly: likewise>similarly
luggage baggage: luggage>baggage
mainly primarily: mainly=primarily
maize corn: maize>corn
maybe perhaps: maybe=perhaps
medication medicine: medication>medicine medications>medicines
mistake error: mistakes>errors ~mistake
movie film: movie>film movies>films
nearly almost: nearly>almost
neighbor neighbour: neighbor=neighbour neighbors=neighbours
nevertheless nonetheless: nevertheless=nonetheless
noon midday: noon=midday
nowadays today: nowadays>today
occur happen: occur>happen occurs>happens occurred>happened ~occurring
often frequently: often=frequently
organize organise: organize=organise organizes=organises organized=organised ~organizing
particularly especially: particularly=especially
partly partially: partly>partially
photo photograph: photo>photograph photos>photographs
physician doctor: physician>doctor physicians>doctors
postpone defer: postpone>defer postpones>defers postponing>deferring postponed>deferred
probably likely: probably>likely
quickly rapidly: quickly=rapidly
rarely seldom: rarely=seldom
recognize recognise: recognize=recognise recognizes=recognises recognized=recognised ~recognizing
regrettably unfortunately: regrettably=unfortunately
repair fix: repaired>fixed repairing>fixing ~repair ~repairs
rucksack backpack: rucksack>backpack rucksacks>backpacks
shortly soon: shortly>soon
shout yell: shout=yell shouts=yells shouting=yelling shouted=yelled
sofa couch: sofa>couch sofas>couches
solely exclusively: solely=exclusively
someplace somewhere: someplace>somewhere
sulfur sulphur: sulfur=sulphur
sundown sunset: sundown>sunset
taxi cab: taxi>cab taxis>cabs
teenager adolescent: teenagers=adolescents ~teenager
telephone phone: telephone>phone telephones>phones
usually ordinarily: usually=ordinarily
utilize use: utilize>use utilizes>uses utilizing>using utilized>used
wholly totally: wholly>totally
"""
# Where these stand together they mean something of their own, and stay.
IDIOMS = (
    *("more often than not", "every so often", "not nearly", "nearly not", "nearly never"),
    *("allow for", "allows for", "allowed for", "allowing for", "weather permitting"),
    *("occur to", "occurs to", "occurred to", "demonstrate against", "calculated risk"),
    *("buy into", "buy in", "buy out", "buys out", "buying out", "bought out", "buy time"),
    *("physician assistant", "physician assistants", "district attorney", "attorney general"),
    *("district attorneys", "power of attorney", "attorneys general", "grandfather clock"),
    *("grandfather clauses", "grandfather clocks", "grandfather clause", "movie theater"),
    *("graveyard shift", "high noon", "photo finish", "yours truly"),
    *("organized crime", "telephone pole", "taxi to"),
)


@dataclass(frozen=True)
class Pair:
    """Two words that may stand for each other.

    Attributes:
        words: as a dictionary has them.
        becomes: {form: form of the other word}.
        sides: forms of the first and of the second word, those that stay among them.
    """

    words: tuple[str, str]
    becomes: dict[str, str]
    sides: tuple[frozenset[str], frozenset[str]]


@cache
def pairs() -> tuple[Pair, ...]:
    """The list, in its order."""
    return tuple(_parsed(_TABLE))


def _parsed(table: str) -> Iterator[Pair]:
    for line in table.strip().splitlines():
        head, _, forms = line.partition(":")
        word, other = head.split()
        becomes: dict[str, str] = {}
        sides: tuple[set[str], set[str]] = ({word}, {other})
        for form in forms.split():
            sign = next(sign for sign in "=>~" if sign in form)
            one, _, instead = form.partition(sign)
            if sign == "~":
                sides[0].add(instead)
                continue
            becomes[one] = instead
            if sign == "=":
                becomes[instead] = one
            sides[0].add(one)
            sides[1].add(instead)
        yield Pair((word, other), becomes, (frozenset(sides[0]), frozenset(sides[1])))
