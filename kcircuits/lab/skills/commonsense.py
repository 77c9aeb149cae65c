"""Commonsense: which of two words ends a sentence about everyday life.

All sentences are our own. Both words are common, of the same kind, and fit the grammar; only what
people know of the world tells them apart.
"""

from typing import Any

import numpy as np

from kcircuits.lab.skills.skill import Choice, choice_skill

# Sentence / right word / wrong word.
SENTENCES = """
The ice cream stood in the sun for an hour, and then it was all / liquid / solid
She put on a thick coat and gloves because outside it was / cold / hot
He had not eaten since the morning, so in the evening he was very / hungry / full
The baby cried all night, and in the morning the parents were / tired / fresh
Without an umbrella he walked home through the rain, and his clothes were / wet / dry
The candle burned for hours, and it became much / shorter / longer
To see the stars well, you should wait until it is / night / noon
The glass fell from the table onto the stone floor and / broke / grew
To cut the bread, she took a / knife / spoon
To eat the soup, he took a / spoon / fork
The fish was taken out of the water, and soon it was / dead / happy
When the light turned red, the driver pressed the / brake / horn
He forgot to water the flowers all summer, and they / died / grew
The room was dark, so she turned on the / light / heat
The room was cold, so she turned on the / heat / light
They planted the seed in spring, and in summer there was a small / plant / stone
He studied hard for the exam, and so he / passed / failed
She never studied for the exam, and so she / failed / passed
The suitcase was full of books, and carrying it was / hard / easy
The feather was so small that it was very / light / heavy
He broke his leg, and the ambulance took him to the / hospital / market
She wanted to borrow a novel, so she went to the / library / bakery
They wanted to buy fresh bread, so they went to the / bakery / library
To learn what time it is, he looked at his / watch / shoe
His shoes were too small, and after the walk his feet / hurt / laughed
The thief heard the police and started to / run / sing
The joke was very funny, and everybody started to / laugh / cry
The film was very sad, and at its end many people began to / cry / laugh
The dog had been locked out all day and was glad to come / inside / outside
The music was so loud that they could hardly / hear / see
The fog was so thick that they could hardly / see / hear
The milk had been in the warm kitchen for a week, and it smelled / bad / good
The cake came fresh out of the oven, and it smelled / good / bad
After the long run her heart was beating / fast / slowly
The old man walked with a stick because his legs were / weak / strong
The elephant is afraid of nothing, for it is very / large / small
The mouse could hide in the hole because it is very / small / large
He put the letter into an envelope and wrote on it the / address / weather
Before going to sleep, she closed her / eyes / hands
To open the locked door, he needed the right / key / song
She washed her hands with water and / soap / sand
He dried his hands with a / towel / knife
The boat had a hole, and slowly it began to / sink / fly
The balloon was let go, and up it went into the / sky / ground
The apple came loose from the branch and fell to the / ground / sky
In winter the lake was covered with / ice / leaves
In autumn the path was covered with / leaves / ice
The wooden house caught fire, and the neighbours called for / help / lunch
She paid for the bread, and the baker gave her the / change / moon
The train left at nine, and he came at ten, so he was too / late / early
The shop opens at nine, and she came at eight, so she was too / early / late
He wanted to lose weight, so he ate / less / more
Her tea was too bitter, so she added some / sugar / salt
The soup had no taste, so the cook added some / salt / wood
To write down the number, she looked for a / pen / cup
To drink some water, she looked for a / cup / pen
The children were playing football, and one of them kicked the / ball / teacher
The bird sat on her eggs in the / nest / car
The bees flew from flower to flower and made / honey / bread
The farmer milks every morning his / cows / trees
In the desert it hardly ever / rains / shines
The sun rises every morning in the / east / west
He climbed to the top of the mountain, and from there he looked / down / up
The bridge had fallen, so the cars could not / cross / park
She lost her glasses, so now she cannot / read / walk
He had caught a cold, and all day long he had to / cough / swim
The wound was deep, and there was a lot of / blood / milk
The carpenter built the table out of / wood / paper
They were lost in the forest, so they looked at the / map / mirror
She wanted to see her new hat, so she looked into the / mirror / map
The knife was very sharp, and he cut his / finger / hair
The barber took his scissors and cut his / hair / finger
The plane landed, and the passengers got / off / on
The bus came, the doors opened, and we all got / on / off
The phone rang in the middle of the night and woke everybody / up / down
The battery was empty, so the phone did not / work / stop
He threw the stone into the pond, and it / sank / floated
She threw the cork into the pond, and it / floated / sank
The twins were born on the same day, so they have the same / birthday / shoes
Grandmother was born long before her grandchildren, so she is / older / younger
"""


N_ITEMS = 56
"""Of 80 sentences; the accuracy's standard error is at most .05 from an accuracy of .83 on."""


def commonsense_items(tokenizer: Any, rng: np.random.Generator) -> list[Choice]:
    """Some of the sentences, each with its two words in an order that comes by chance."""
    del tokenizer
    items = []
    sentences = SENTENCES.strip().splitlines()
    for place in rng.choice(len(sentences), N_ITEMS, replace=False):
        prompt, right, wrong = sentences[place].split(" / ")
        answer = int(rng.integers(2))
        options = (f" {wrong}", f" {right}") if answer else (f" {right}", f" {wrong}")
        items.append(Choice(prompt=prompt, options=options, answer=answer))
    return items


COMMONSENSE = choice_skill(
    "commonsense", "which of two words ends a sentence about everyday life", commonsense_items
)
