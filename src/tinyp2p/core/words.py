"""The 256 words of which codes are made (core/pairing.py): short, everyday things, no two alike in sound or but for one letter."""

WORDS = """
acorn album amber anchor angle apple apron arrow atlas attic autumn badge baker bamboo banjo barrel basil basket beacon beaver bench berry
bicycle biscuit blanket bonnet bottle boulder bridge broom bucket buffalo bumper button cabin cactus camel canal candle canoe canvas cargo
carpet carrot castle cedar cello cherry chess chimney cider circle citrus clock cloud clover cobalt cobra coconut comet compass copper coral
cotton cradle crater crayon cricket crystal curtain daisy dancer delta denim desert diamond dolphin domino donkey dragon drum eagle easel
echo eclipse elbow emerald engine falcon feather fennel fiddle flame flute forest fossil fountain fox galaxy garlic gecko ginger giraffe
glacier glove goose granite grape guitar hammer harbor harvest hedge helmet heron honey horizon hotel iceberg igloo indigo island ivory
jacket jaguar jasmine jelly jigsaw jungle kettle kitten kiwi koala ladder lagoon lantern laptop lemon lentil library lilac lizard lobster
lotus lunch magnet mango maple marble market meadow melon mirror morning mosaic muffin museum mustard napkin nectar nickel noodle nutmeg
oasis ocean octopus olive onion opal orbit orchid otter oyster paddle palace panda papaya peanut pebble pelican pencil pepper piano pickle
pigeon pillow pilot planet plum poplar potato prairie pretzel pumpkin puzzle pyramid quartz rabbit radish rainbow raven ribbon river robin
rocket saffron salad salmon sandal satin scarf shadow silver sketch slipper snail spider spinach sponge sugar summer sunset tablet teapot
temple thunder ticket tiger timber toast tomato tower tractor trumpet tulip tunnel turnip turtle umbrella unicorn valley vanilla velvet
village violin volcano waffle wagon walnut walrus whale window winter yogurt zebra zipper
""".split()  # noqa: SIM905
