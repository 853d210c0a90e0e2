"""The fragments of Python that translated rules consist of.

What it is: the fast way of each operation, with the charges of `operations`. What it does not do:
it handles no error; where the fast way does not fit, `operations` is called, and where that would
fail anyhow, the run deviates.

Capital names are places to fill; small ones are the fixed table of `execution`, and of the running
function `n` and `b`: the steps and bytes that it has yet to take from the meter, `m`. Questions
about types are left out where the answer is known.
"""

from contracts.language.translation.templates import Template

DEVIATE = Template("raise deviation")

# Charges. A function owes what is in n and b until it calls another one or returns.
START = Template("n = b = 0")
STEPS = Template("n += COUNT")
BYTES = Template(
    """
    b += COUNT
    if b > m.bytes_left:
        raise deviation
    """
)
STEPS_OF_PASSES = Template("n += COUNT * EACH")
BYTES_OF_PASSES = Template(
    """
    b += COUNT * EACH
    if b > m.bytes_left:
        raise deviation
    """
)
CHECK_STEPS = Template(
    """
    if n > m.steps_left:
        raise deviation
    """
)
PAY = Template(
    """
    m.steps_left -= n
    m.bytes_left -= b
    n = b = 0
    """
)
FINISH = Template(
    """
    m.steps_left -= n
    m.bytes_left -= b
    if m.steps_left < 0 or m.bytes_left < 0:
        raise deviation
    """
)

# Integers and strings.
WANT = Template(
    """
    if type(X) is not KIND:
        raise deviation
    """
)
BOUND = Template(
    """
    if X > integer_max or X < integer_min:
        raise deviation
    """
)
NOT_ZERO = Template(
    """
    if not X:
        raise deviation
    """
)
ADD = Template(
    """
    if type(LEFT) is int and type(RIGHT) is int:
        OUT = LEFT + RIGHT
        if OUT > integer_max or OUT < integer_min:
            raise deviation
    else:
        OUT = add(LEFT, RIGHT, at, m)
    """
)
MULTIPLY = Template(
    """
    if type(LEFT) is int and type(RIGHT) is int:
        OUT = LEFT * RIGHT
        if OUT > integer_max or OUT < integer_min:
            raise deviation
    else:
        OUT = multiply(LEFT, RIGHT, at, m)
    """
)
COMPARE = Template(
    """
    if type(LEFT) is int and type(RIGHT) is int:
        OUT = COMPARED
    else:
        OUT = CALLED
    """
)
CONTAINS = Template(
    """
    if type(CONTAINER) is dict and type(ITEM) is str:
        OUT = ITEM in CONTAINER
    else:
        OUT = contains(ITEM, CONTAINER, at, m)
    """
)
JOIN = Template(
    """
    b += COST
    if len(OUT) > longest_string or b > m.bytes_left:
        raise deviation
    """
)
GREATER = Template(
    """
    if type(LEFT) is int and type(RIGHT) is int:
        n += 1
        OUT = RIGHT if RIGHT > LEFT else LEFT
    else:
        OUT = CALLED
    """
)
LESSER = Template(
    """
    if type(LEFT) is int and type(RIGHT) is int:
        n += 1
        OUT = RIGHT if RIGHT < LEFT else LEFT
    else:
        OUT = CALLED
    """
)
LENGTH = Template(
    """
    if type(X) not in sized:
        raise deviation
    OUT = len(X)
    """
)

# Items.
ITEM = Template(
    """
    if type(KEY) is str and type(CONTAINER) is dict:
        OUT = CONTAINER[KEY]
    elif type(KEY) is int and (type(CONTAINER) is list or type(CONTAINER) is tuple):
        OUT = CONTAINER[KEY]
    else:
        OUT = get_item(CONTAINER, KEY, at, m)
    """
)
STORE_ITEM = Template(
    """
    if type(KEY) is str and type(CONTAINER) is dict:
        if locks and id(CONTAINER) in locks:
            raise deviation
        if KEY not in CONTAINER:
            b += entry_bytes
            if b > m.bytes_left or len(CONTAINER) >= most_items:
                raise deviation
        CONTAINER[KEY] = VALUE
    elif type(KEY) is int and type(CONTAINER) is list:
        if locks and id(CONTAINER) in locks:
            raise deviation
        CONTAINER[KEY] = VALUE
    else:
        set_item(CONTAINER, KEY, VALUE, at, m)
    """
)
STORE_AGAIN = Template(
    """
    if type(KEY) is str and type(CONTAINER) is dict:
        if locks and id(CONTAINER) in locks:
            raise deviation
    else:
        set_item(CONTAINER, KEY, VALUE, at, m)
    """
)
UNPACK = Template(
    """
    if type(X) is not tuple and type(X) is not list or len(X) != COUNT:
        raise deviation
    """
)

# Lists that grow in place.
APPEND_ITEM = Template(
    """
    if type(X) is not list:
        raise deviation
    if locks and id(X) in locks:
        raise deviation
    X.append(VALUE)
    if len(X) > most_items:
        raise deviation
    """
)
EXTEND_BY_ITEMS = Template(
    """
    if type(X) is not list:
        raise deviation
    if locks and id(X) in locks:
        raise deviation
    X += VALUES
    if len(X) > most_items:
        raise deviation
    """
)
EXTEND_OR_ADD = Template(
    """
    if type(X) is int and type(VALUE) is int:
        OUT = X + VALUE
        if OUT > integer_max or OUT < integer_min:
            raise deviation
    elif type(X) is list:
        extend(X, VALUE, at, m)
        OUT = X
    else:
        OUT = add(X, VALUE, at, m)
    """
)

# What displays and comprehensions make.
KEY = Template("TEXT = KEY if type(KEY) is str else key_of(KEY, at, m)")
PUT_NEW = Template(
    """
    if TEXT in MADE:
        raise deviation
    MADE[TEXT] = VALUE
    """
)
PUT = Template(
    """
    if TEXT not in MADE:
        b += entry_bytes
        if b > m.bytes_left or len(MADE) >= most_items:
            raise deviation
    MADE[TEXT] = VALUE
    """
)
APPEND = Template("MADE.append(VALUE)")
CHECK_ITEMS = Template(
    """
    if len(MADE) > most_items:
        raise deviation
    """
)

# Loops.
ITEMS = Template(
    """
    ITEMS = X if type(X) is list else items_of(X, at, m, "for")
    COUNT = len(ITEMS)
    """
)
COUNT = Template("COUNT = len(X)")
ROWS = Template("COUNT, ITEMS = FUNCTION(ARGUMENTS, at, m)")
UNLOCK = Template(
    """
    if IDENTITY is not None:
        unlock(IDENTITY, locks)
    """
)
