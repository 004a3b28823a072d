"""The colours of all pictures, each with one meaning.

They are those of Okabe and Ito (2008), which people with the common kinds of colour blindness tell apart.
"""

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW)
GREY, PALE = "#7F7F7F", "#D0D0D0"

WITH_KEY_COLOUR = BLUE  # works as it should: the right key, an attack that learns nothing
WITHOUT_KEY_COLOUR = VERMILION  # wrong key, no key, an attack that learns something
REFERENCE_COLOUR = GREY  # what the other two are compared with
