"""The 200 words that can be printed: a third of them each have three, four and five letters."""

WORDS = tuple(
    """
    air ant arm bag bat bed bee box bus cab car cat cow cup day dog ear egg end eye fan fox fun gas hat hen hot ice ink
    jam jar job key kid leg lid lip man map mix mud net nut oil out owl pan pen pig pin pot red run sea sky sun
    tax tea toy van war wax web wet yak zip zoo
    army away baby back ball bank bell bike bird blue boat book cake calm city cold corn desk door down duck east exit
    face farm fire fish frog gate gold hand help home iron jazz kiln king lamp leaf lion milk moon nest news oven
    park pull push quiz rain roof sale salt shop slow snow star stop taxi tree unit view walk west wind wolf zero
    apple beach bread brick chair clean clock cloud crown dance drink eagle earth enter field flour fruit ghost glass
    green guard happy heavy honey horse hotel house image juice knife lemon light lunch metal money mouse music
    night ocean onion paper peach phone piano plant queen radio river robot salad sheep shirt smile snake spoon stone
    sugar table tiger train uncle video water wheel yacht zebra
    """.split()  # noqa: SIM905
)
